//! Tests of the store as a whole: on files, on a disk that loses power, and on files that somebody damaged.

mod crash;
mod damage;
mod database;
pub(crate) mod disk;
mod snapshot;
