//! One value for each process. Alone in its binary: a generation is the whole process's.
#![cfg(not(loom))]

use flask_delay_engine::{LazyPerProcess, PerProcess, begin_generation, generation};

#[test]
fn a_forked_process_has_a_value_of_its_own() {
    let known = PerProcess::new(vec![0]);
    let lazy = LazyPerProcess::new();
    assert_eq!(lazy.get(), None);
    assert_eq!(*lazy.get_or_init(|| "parent"), "parent");
    assert_eq!(*lazy.get_or_init(|| "another one"), "parent");
    assert_eq!(known.get(), Some(&vec![0]));
    assert_eq!(known.inherited().count(), 0);

    let parent = generation();
    begin_generation();
    assert_eq!(generation(), parent + 1);
    assert_eq!(known.get(), None);
    assert_eq!(lazy.get(), None);
    assert_eq!(known.inherited().collect::<Vec<_>>(), [&vec![0]]);
    assert_eq!(*known.get_or_init(|| vec![1]), [1]);
    assert_eq!(known.get(), Some(&vec![1]));

    // A value that was not used in a generation does not exist in it.
    begin_generation();
    assert_eq!(*lazy.get_or_init(|| "grandchild"), "grandchild");
    assert_eq!(lazy.inherited().collect::<Vec<_>>(), [&"parent"]);
    assert_eq!(*known.get_or_init(|| vec![2]), [2]);
    assert_eq!(known.inherited().count(), 2);
}
