//! The certificates that are served, and when their files are read again.
//!
//! Handshakes of all shards read at any time; one thread of the control plane looks for changes. All pairs are replaced at once or not
//! at all, so that no handshake sees some of the old and some of the new; a handshake that has its certificate keeps it.
//!
//! Changes are found by asking the file system about what the paths lead to now, through any number of symbolic links, rather than by
//! being told: a watch is on a file or folder, and renewal tools swap the links to them.

use super::names::Names;
use super::pair::Pair;
use super::{Development, Fault, FaultCause, Files, PAIRS_MAX, SETTLE_MS, Summary, UnixSeconds, Warning};
use crate::time::{Millis, Now};
use rustls::SignatureScheme;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// What became of a look at the files.
#[derive(Debug)]
pub enum Change {
    /// They say what is served.
    None,
    /// They have changed and are faulty, which may be because somebody is still writing them, or was told before.
    Waiting,
    /// They were read, and are what is served from now on.
    Replaced(Vec<Warning>),
    /// They have been faulty for [`SETTLE_MS`]: what is served stays. Told once, until they change again.
    Refused(Fault),
}

/// The certificates that are served. See the module.
pub struct Store {
    files: Vec<Files>,
    provider: Arc<CryptoProvider>,
    /// Held only to copy or to replace the pointer.
    content: RwLock<Arc<Content>>,
    watch: Mutex<Watch>,
}

/// What is served at one time.
struct Content {
    /// Invariant: not empty.
    pairs: Vec<Pair>,
    names: Names,
}

/// What was last seen of the files.
struct Watch {
    /// Of the files that are served, taken before they were read.
    served: Stamps,
    faulty: Option<Faulty>,
}

/// Files that could not be served.
struct Faulty {
    stamps: Stamps,
    since: Millis,
    is_told: bool,
}

/// Of the files of all pairs, in order.
type Stamps = Vec<Option<Stamp>>;

/// What tells a file from another, and from itself after a change. The times are seconds and nanoseconds; that of the inode's change
/// is there because the other can be set back.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// `None` if there is no such file, or it cannot be seen.
    fn of(path: &Path) -> Option<Stamp> {
        let metadata = fs::metadata(path).ok()?;
        Some(Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

impl Store {
    /// Reads the pairs. The first is for clients that ask for no name, or for one that none is for.
    ///
    /// # Errors
    /// The first [`Fault`].
    ///
    /// # Panics
    /// Without any files.
    pub fn load(files: Vec<Files>, provider: Arc<CryptoProvider>, now: Now) -> Result<(Store, Vec<Warning>), Fault> {
        assert!(!files.is_empty(), "a store needs a pair");
        let served = stamps(&files);
        let (content, warnings) = Content::load(&files, &provider, UnixSeconds::of(now))?;
        Ok((Store::new(files, provider, content, served), warnings))
    }

    /// Serves one certificate that was made here, and has no files to read again.
    pub fn of_development(development: &Development, provider: Arc<CryptoProvider>) -> Store {
        Store::new(Vec::new(), provider, Content::new(vec![development.pair()]), Stamps::new())
    }

    fn new(files: Vec<Files>, provider: Arc<CryptoProvider>, content: Content, served: Stamps) -> Store {
        let watch = Mutex::new(Watch { served, faulty: None });
        Store { files, provider, content: RwLock::new(Arc::new(content)), watch }
    }

    /// What is served now: a summary of each pair, in the order in which they were given.
    pub fn summaries(&self) -> Vec<Summary> {
        self.content().pairs.iter().map(|pair| pair.summary.clone()).collect()
    }

    /// Reads the files now, because somebody asked for it (SIGHUP). What is served is replaced by them, or stays as it is.
    ///
    /// # Errors
    /// The first [`Fault`]: at once, and not again by [`poll_files`](Store::poll_files).
    pub fn reload(&self, now: Now) -> Result<Vec<Warning>, Fault> {
        if self.files.is_empty() {
            return Ok(Vec::new());
        }
        let mut watch = self.watch();
        let stamps = stamps(&self.files);
        match Content::load(&self.files, &self.provider, UnixSeconds::of(now)) {
            Ok((content, warnings)) => {
                self.replace(content);
                *watch = Watch { served: stamps, faulty: None };
                Ok(warnings)
            }
            Err(fault) => {
                watch.faulty = Some(Faulty { stamps, since: now.mono, is_told: true });
                Err(fault)
            }
        }
    }

    /// Whether the paths lead to other files than those that are served, or to changed ones. Costs a system call a file.
    pub fn has_changed(&self) -> bool {
        let watch = self.watch();
        watch.served != stamps(&self.files)
    }

    /// Looks whether the files have changed, and serves them if they are whole. Meant to be called every few seconds; changed files that
    /// are faulty are read again at each call, because what they lack may come, and a certificate may become valid.
    pub fn poll_files(&self, now: Now) -> Change {
        let mut watch = self.watch();
        let stamps = stamps(&self.files);
        if stamps == watch.served {
            watch.faulty = None;
            return Change::None;
        }
        match Content::load(&self.files, &self.provider, UnixSeconds::of(now)) {
            Ok((content, warnings)) => {
                *watch = Watch { served: stamps, faulty: None };
                // Files that were only touched, or given other permissions, are no news.
                if content.shows_the_same_as(&self.content()) {
                    return Change::None;
                }
                self.replace(content);
                Change::Replaced(warnings)
            }
            Err(fault) => {
                if watch.faulty.as_ref().is_none_or(|faulty| faulty.stamps != stamps) {
                    watch.faulty = Some(Faulty { stamps, since: now.mono, is_told: false });
                }
                match &mut watch.faulty {
                    Some(faulty) if !faulty.is_told && now.mono.since(faulty.since) >= SETTLE_MS => {
                        faulty.is_told = true;
                        Change::Refused(fault)
                    }
                    Some(_) | None => Change::Waiting,
                }
            }
        }
    }

    fn content(&self) -> Arc<Content> {
        Arc::clone(&self.content.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, content: Content) {
        let content = Arc::new(content);
        let old = std::mem::replace(&mut *self.content.write().unwrap_or_else(PoisonError::into_inner), content);
        // Only now, outside of the lock, are old keys freed.
        drop(old);
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamps(files: &[Files]) -> Stamps {
    files.iter().flat_map(|files| [Stamp::of(&files.chain), Stamp::of(&files.key)]).collect()
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("files", &self.files).field("pairs", &self.content().pairs).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Store {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.content().choose(hello.server_name(), hello.signature_schemes()))
    }
}

impl Content {
    fn load(files: &[Files], provider: &CryptoProvider, now: UnixSeconds) -> Result<(Content, Vec<Warning>), Fault> {
        if let Some(first) = files.get(PAIRS_MAX) {
            return Err(Fault::new(&first.chain, FaultCause::TooManyPairs));
        }
        let mut warnings = Vec::new();
        let pairs: Result<Vec<Pair>, Fault> = files.iter().map(|files| Pair::load(files, provider, now, &mut warnings)).collect();
        Ok((Content::new(pairs?), warnings))
    }

    fn new(pairs: Vec<Pair>) -> Content {
        let mut names = Names::default();
        for (index, pair) in pairs.iter().enumerate() {
            pair.summary.hosts.iter().for_each(|host| names.insert(host, index));
        }
        Content { pairs, names }
    }

    /// The best pair for a host whose key can sign as the client wants: the same names may have one of ECDSA and one of RSA. If none
    /// can, the best all the same, so that the handshake ends for the reason that it has.
    fn choose(&self, host: Option<&str>, schemes: &[SignatureScheme]) -> Arc<CertifiedKey> {
        let mut best = None;
        for index in host.into_iter().flat_map(|host| self.names.find(host)) {
            let certified = &self.pairs[index].certified;
            if certified.key.choose_scheme(schemes).is_some() {
                return Arc::clone(certified);
            }
            best = best.or(Some(certified));
        }
        Arc::clone(best.unwrap_or(&self.pairs[0].certified))
    }

    fn shows_the_same_as(&self, other: &Content) -> bool {
        self.pairs.len() == other.pairs.len()
            && self.pairs.iter().zip(&other.pairs).all(|(ours, theirs)| ours.certified.cert == theirs.certified.cert)
    }
}
