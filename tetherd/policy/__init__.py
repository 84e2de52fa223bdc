"""Pure decisions: who, when, how much. Time and randomness are arguments."""
