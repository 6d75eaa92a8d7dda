"""From a cohort as it was downloaded to its manifest; one file a cohort. Slide names come from the download alone."""
