"""What a host is for. Roles ask ports and consult policies; they touch nothing themselves."""
