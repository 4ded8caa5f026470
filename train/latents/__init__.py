"""What a step is made of: encoded images and masks, the table of samples, batches."""
