//! Clusters in a process and of real processes, fakes, fixtures and matchers.
