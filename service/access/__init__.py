"""Access control: keys, tokens, rates and the audit log."""
