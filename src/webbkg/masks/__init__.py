"""Which pixels may be used: data-quality flags and sources."""
