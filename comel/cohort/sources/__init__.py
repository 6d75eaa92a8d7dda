"""From a downloaded cohort to its manifest; one file per cohort. Slide names come only from the download."""
