//! What proto/ generates, and conversions to the model.
