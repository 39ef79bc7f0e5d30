//! One controller a file.
