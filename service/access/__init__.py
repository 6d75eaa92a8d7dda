"""Who may do what: keys, tokens, rates and the audit log."""
