"""The operator's command line of Tether."""
