//! The arena against a list of optional values.

use super::input::Input;
use crate::shard::arena::{Arena, Index, UserIndex};

/// Operations of one run at most.
const STEPS_MAX: usize = 2_000;

/// Inserts, removes and looks up in an arena as the bytes say, beside a `Vec<Option<u32>>`.
///
/// # Panics
/// If the arena and the list disagree.
pub fn arena(data: &[u8]) {
    let mut input = Input::new(data);
    let capacity = input.below(20);
    let mut arena: Arena<UserIndex, u32> = Arena::with_capacity(capacity);
    let mut model: Vec<Option<u32>> = Vec::new();
    // Places that are free again, the last freed last.
    let mut freed: Vec<usize> = Vec::new();
    for step in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        let place = input.below(capacity + 2);
        match input.below(4) {
            0 | 1 => {
                let expected = match freed.pop() {
                    Some(place) => Some(place),
                    None if model.len() < capacity => {
                        model.push(None);
                        Some(model.len() - 1)
                    }
                    None => None,
                };
                assert_eq!(arena.insert(step as u32).map(UserIndex::at), expected);
                if let Some(place) = expected {
                    model[place] = Some(step as u32);
                }
            }
            2 if model.get(place).copied().flatten().is_some() => {
                assert_eq!(Some(arena.remove(UserIndex::new(place))), model[place].take());
                freed.push(place);
            }
            _ => {
                if let Some(Some(value)) = model.get_mut(place) {
                    *value = value.wrapping_add(1_000);
                    arena[UserIndex::new(place)] = *value;
                }
            }
        }
        let live = model.iter().flatten().count();
        assert_eq!((arena.len(), arena.extent(), arena.is_full()), (live, model.len(), live == capacity));
        assert_eq!(arena.verify(), Ok(()));
        for place in 0..capacity + 2 {
            assert_eq!(arena.get(UserIndex::new(place)), model.get(place).and_then(Option::as_ref));
        }
    }
}
