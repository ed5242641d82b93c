"""Pictures and pages about finished runs; never imports the trainer."""
