"""Where two tiles lie to each other, as a learned part of an attention."""
