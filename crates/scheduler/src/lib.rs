//! Which node gets which pod: a pure planner and the loop around it.
