//! Kind actors, views, watches and history.
