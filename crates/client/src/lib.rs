//! The Client with which every part of Balsa reads, watches and writes objects.
