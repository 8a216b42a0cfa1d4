//! `range`: of each topic its readers get neighbouring partitions, in the order of the members, the
//! first of them one more where it does not come out even. Topics of one size and the same readers
//! are cut alike, so that what is keyed alike meets at one member.

use std::collections::BTreeMap;
use std::sync::Arc;

use firn_proto::cluster::Assignment;

use super::Assigning;

/// Static members come first, by their static ids: what they get outlives their member ids.
pub(super) fn assign(group: &Assigning<'_>) -> BTreeMap<Arc<str>, Assignment> {
    let mut order: Vec<_> = group.members.iter().collect();
    order.sort_by_key(|(id, member)| (member.instance.is_none(), member.instance, **id));
    let mut targets: BTreeMap<Arc<str>, Assignment> = BTreeMap::new();
    for (id, _) in &order {
        targets.insert(Arc::clone(id), Assignment::default());
    }
    for topic in group.partitions.keys() {
        let readers = order.iter().filter(|(_, m)| m.topics.contains(topic));
        let readers: Vec<_> = readers.map(|(id, _)| **id).collect();
        let mut partitions = group.partitions_of(*topic);
        let count = group.partitions_of(*topic).count();
        if readers.is_empty() {
            continue;
        }
        let (least, longer) = (count / readers.len(), count % readers.len());
        for (at, id) in readers.into_iter().enumerate() {
            let part = partitions.by_ref().take(least + usize::from(at < longer));
            if let Some(target) = targets.get_mut(id) {
                part.for_each(|tp| target.insert(tp));
            }
        }
    }
    targets
}
