//! Tests of the machine: against a scripted peer, and against a model of the server through a network that cuts at any moment.

mod model;
mod scripted;
mod world;
