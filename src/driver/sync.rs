//! What the threads of a server share their memory with. Files that only take it from here can be compiled against a model checker's.

pub(crate) use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
pub(crate) use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering, fence};
pub(crate) use std::sync::{Arc, Mutex, PoisonError, TryLockError};
