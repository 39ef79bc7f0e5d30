//! Containers, images and their logs: traits, Docker, and a simulation.
