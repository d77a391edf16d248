//! Slips of the pen: the existing name that an unknown one was probably meant to be.
//!
//! Pure, and bounded in what it looks at. It never knows what the names are names of.

/// Names that are looked at, so that a typo costs the same with a million names.
const LOOKED_AT: usize = 1_000;

/// The name that differs least, if few enough letters differ to be a slip.
pub(crate) fn closest<'a>(name: &str, names: impl Iterator<Item = &'a String>) -> Option<String> {
    let limit = (name.len() / 3).clamp(1, 3);
    names
        .take(LOOKED_AT)
        .map(|other| (distance(name, other), other))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, other)| other.clone())
}

/// Levenshtein's distance, in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_find_the_name_that_was_meant() {
        let names = ["orders".to_owned(), "invoices".to_owned()];
        assert_eq!(closest("order", names.iter()), Some("orders".into()));
        assert_eq!(closest("invioces", names.iter()), Some("invoices".into()));
        assert_eq!(closest("payments", names.iter()), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
