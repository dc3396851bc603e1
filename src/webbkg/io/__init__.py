"""The only place that knows FITS files, data models and associations."""
