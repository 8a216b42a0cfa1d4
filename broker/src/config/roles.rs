//! What a process does in its cluster. Pure.

/// The roles of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// It owns partitions.
    pub broker: bool,
    /// It may lead the cluster.
    pub coordinator: bool,
}

impl Roles {
    /// At least one of two words.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut roles = Self::default();
        for word in text.split(',') {
            let role = match word.trim() {
                "broker" => &mut roles.broker,
                "coordinator" => &mut roles.coordinator,
                other => {
                    return Err(format!(
                        "`{other}` is no role: write broker, coordinator, or both with a comma between"
                    ));
                }
            };
            if std::mem::replace(role, true) {
                return Err(format!("`{}` is there twice", word.trim()));
            }
        }
        Ok(roles)
    }
}
