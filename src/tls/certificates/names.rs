//! Which certificates are for a host name (RFC 9525 §6.3): the exact name before a wildcard, which stands for one label, the first.

use std::collections::HashMap;

/// Host names, each with the certificates that are for it, by number, in the order in which they were given.
#[derive(Debug, Default)]
pub(super) struct Names {
    exact: HashMap<Box<str>, Vec<usize>>,
    /// By what follows `*.`.
    wildcard: HashMap<Box<str>, Vec<usize>>,
}

impl Names {
    /// Notes that a certificate is for a name, which is in lower case. A `*` anywhere but as the whole first label matches nothing.
    pub(super) fn insert(&mut self, name: &str, certificate: usize) {
        let (names, key) = match name.strip_prefix("*.") {
            Some(rest) => (&mut self.wildcard, rest),
            None => (&mut self.exact, name),
        };
        names.entry(key.into()).or_default().push(certificate);
    }

    /// The certificates for a host, best first.
    pub(super) fn find(&self, host: &str) -> impl Iterator<Item = usize> {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let exact = self.exact.get(host.as_str());
        let parent = host.split_once('.').filter(|(label, _)| !label.is_empty()).map(|(_, parent)| parent);
        let wildcard = parent.and_then(|parent| self.wildcard.get(parent));
        exact.into_iter().chain(wildcard).flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(names: &Names, host: &str) -> Vec<usize> {
        names.find(host).collect()
    }

    #[test]
    fn the_exact_name_goes_before_the_wildcard() {
        let mut names = Names::default();
        names.insert("*.example.org", 0);
        names.insert("a.example.org", 1);
        names.insert("a.example.org", 2);
        assert_eq!(found(&names, "a.example.org"), [1, 2, 0]);
        assert_eq!(found(&names, "A.Example.ORG."), [1, 2, 0], "case and the root's dot say nothing");
        assert_eq!(found(&names, "b.example.org"), [0]);
    }

    #[test]
    fn a_wildcard_is_one_whole_label() {
        let mut names = Names::default();
        names.insert("*.example.org", 0);
        names.insert("w*.example.net", 1);
        for host in ["example.org", "a.b.example.org", ".example.org", "org", "www.example.net", ""] {
            assert_eq!(found(&names, host), [0; 0], "{host:?}");
        }
    }
}
