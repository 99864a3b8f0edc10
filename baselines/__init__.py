"""Methods that people would use instead, trained and decoded like the CVAE."""
