//! What is wrong is told with what to do about it, and nothing is lost.
