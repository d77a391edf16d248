//! Who gets which partition: balanced, and moving as little as possible. Pure.
//!
//! Every partition gets a member, the counts of two members differ by at most one, and a
//! partition stays where it is unless balance asks for it. So a member that joins takes only its
//! share, and when one leaves only what it had moves.

use std::collections::BTreeMap;

/// The owner of each partition. `members` in the order in which they are served first; `owners`
/// as of now (a member that is not in `members` counts as none).
pub(super) fn assign(members: &[u64], owners: &[Option<u64>]) -> Vec<Option<u64>> {
    if members.is_empty() {
        return vec![None; owners.len()];
    }
    let mut kept: BTreeMap<u64, usize> = members.iter().map(|member| (*member, 0)).collect();
    for owner in owners.iter().flatten() {
        kept.entry(*owner).and_modify(|count| *count += 1);
    }
    let mut room = shares(members, &kept, owners.len());
    let mut target: Vec<Option<u64>> = owners
        .iter()
        .map(|owner| owner.filter(|owner| take(&mut room, *owner)))
        .collect();
    let mut turn = members.iter().copied().cycle();
    for place in target.iter_mut().filter(|place| place.is_none()) {
        // The shares add up to the partitions, so somebody has room.
        *place = turn
            .by_ref()
            .take(members.len())
            .find(|member| take(&mut room, *member));
    }
    target
}

/// How many partitions each member shall have: the odd ones go to those who have most already.
fn shares(members: &[u64], kept: &BTreeMap<u64, usize>, partitions: usize) -> BTreeMap<u64, usize> {
    let (share, odd) = (partitions / members.len(), partitions % members.len());
    let mut order: Vec<u64> = members.to_vec();
    // A stable sort: among equals, whoever is served first.
    order.sort_by_key(|member| std::cmp::Reverse(kept.get(member).copied().unwrap_or(0)));
    let share_of = |(place, member): (usize, u64)| (member, share + usize::from(place < odd));
    order.into_iter().enumerate().map(share_of).collect()
}

fn take(room: &mut BTreeMap<u64, usize>, member: u64) -> bool {
    match room.get_mut(&member) {
        Some(left) if *left > 0 => {
            *left -= 1;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(members: &[u64], target: &[Option<u64>]) -> Vec<usize> {
        let count = |member: &u64| target.iter().filter(|t| **t == Some(*member)).count();
        members.iter().map(count).collect()
    }

    fn moved(before: &[Option<u64>], after: &[Option<u64>]) -> usize {
        before.iter().zip(after).filter(|(b, a)| b != a).count()
    }

    #[test]
    fn two_share_and_a_third_takes_only_its_part() {
        let alone = assign(&[1], &[None; 6]);
        let two = assign(&[1, 2], &alone);
        assert_eq!(counts(&[1, 2], &two), [3, 3]);
        let three = assign(&[1, 2, 3], &two);
        assert_eq!(counts(&[1, 2, 3], &three), [2, 2, 2]);
        assert_eq!(moved(&two, &three), 2);
        assert_eq!(assign(&[], &three), [None; 6]);
    }

    proptest! {
        #[test]
        fn balanced_sticky_and_complete(
            members in proptest::collection::btree_set(0u64..12, 1..12),
            owners in proptest::collection::vec(proptest::option::of(0u64..12), 0..60),
        ) {
            let members: Vec<u64> = members.into_iter().collect();
            let target = assign(&members, &owners);
            prop_assert!(target.iter().all(|t| t.is_some_and(|t| members.contains(&t))));
            let counts = counts(&members, &target);
            let (least, most) = (counts.iter().min(), counts.iter().max());
            prop_assert!(most.zip(least).is_none_or(|(most, least)| most - least <= 1));
            // Not one more than balance asks for: who has less than the greater share keeps all.
            let share = owners.len().div_ceil(members.len());
            let before = self::counts(&members, &owners);
            let kept: usize = owners.iter().zip(&target).filter(|(o, t)| o == t).count();
            let (low, odd) = (owners.len() / members.len(), owners.len() % members.len());
            let full = before.iter().filter(|count| **count > low).count().min(odd);
            let most_kept: usize = before.iter().map(|count| (*count).min(low)).sum::<usize>() + full;
            prop_assert_eq!(kept, most_kept, "share {}", share);
            // Nothing moves without cause.
            prop_assert_eq!(assign(&members, &target), target);
        }

        #[test]
        fn a_join_moves_only_to_the_new_and_a_leave_only_what_was_left(
            partitions in 0usize..80,
            count in 1u64..12,
        ) {
            let members: Vec<u64> = (0..count).collect();
            let before = assign(&members, &vec![None; partitions]);
            let more: Vec<u64> = (0..=count).collect();
            let joined = assign(&more, &before);
            for (was, is) in before.iter().zip(&joined) {
                prop_assert!(was == is || *is == Some(count));
            }
            let left: Vec<u64> = (1..=count).collect();
            let after = assign(&left, &joined);
            for (was, is) in joined.iter().zip(&after) {
                prop_assert!(was == is || *was == Some(0));
            }
        }
    }
}
