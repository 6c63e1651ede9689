//! The plain tasks of a process that have places on the machine.

use std::collections::HashMap;

use flask_delay_engine::Mutex;
use flask_delay_journal::Permit;

/// The plain tasks of this process that have a place in a lane, by the lane's key.
#[derive(Default)]
pub(crate) struct Holders {
    /// A leaf.
    lanes: Mutex<HashMap<String, Vec<Holder>>>,
}

#[derive(Clone, Copy)]
pub(crate) struct Holder {
    pub(crate) permit: Permit,
    /// The address of its task, which lives meanwhile.
    pub(crate) task: usize,
    pub(crate) limit: u64,
}

impl Holders {
    pub(crate) fn add(&self, key: &str, holder: Holder) {
        let mut lanes = self.lanes.lock();
        lanes.entry(key.to_owned()).or_default().push(holder);
    }

    pub(crate) fn remove(&self, key: &str, permit: Permit) {
        let mut lanes = self.lanes.lock();
        if let Some(holders) = lanes.get_mut(key) {
            holders.retain(|it| it.permit != permit);
            if holders.is_empty() {
                lanes.remove(key);
            }
        }
    }

    pub(crate) fn of(&self, key: &str) -> Vec<Holder> {
        self.lanes.lock().get(key).cloned().unwrap_or_default()
    }
}
