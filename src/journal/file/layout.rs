//! The layouts of the file.
//!
//! The first layout is a list of texts. Each later one is what its migration makes of the one before
//! it, in a new file too: so a file has the same texts whichever way it came to its layout.

use rusqlite::{Connection, Result as Sql};

/// How a layout becomes the next one.
pub(crate) struct Migration {
    /// Statements, without a transaction of their own.
    pub sql: &'static str,
    /// Whether it only adds: code of the layout before goes on beside it. The columns that it adds
    /// have no parentheses in their text.
    pub only_adds: bool,
}

/// A layout, and how all before it become that one.
pub(crate) struct Layout {
    /// The tables and indexes of the first one, each as SQLite keeps its text.
    pub first: &'static [&'static str],
    /// How each one becomes the next, in order.
    pub migrations: &'static [Migration],
}

impl Layout {
    /// The number of the layout.
    pub(crate) fn version(&self) -> i64 {
        number(self.migrations.len()) + 1
    }

    /// The oldest code that may use this layout: its number is that of the last layout which more than
    /// adds to the one before.
    pub(crate) fn oldest(&self) -> i64 {
        self.oldest_at(self.version())
    }

    /// As `oldest`, of the layout with this number.
    pub(crate) fn oldest_at(&self, version: i64) -> i64 {
        let breaking = self.after(1).filter(|(_, it)| !it.only_adds);
        let breaking = breaking.map(|(it, _)| it).filter(|it| *it <= version);
        breaking.last().unwrap_or(1)
    }

    /// The migrations that a file of a version needs, each with the version that it makes.
    pub(crate) fn after(&self, version: i64) -> impl Iterator<Item = (i64, &Migration)> {
        let all = (2..).zip(self.migrations);
        all.filter(move |(it, _)| *it > version)
    }

    /// Makes the layout of a version in an empty file, in a transaction of the caller's.
    pub(crate) fn make(&self, connection: &Connection, version: i64) -> Sql<()> {
        for text in self.first {
            connection.execute_batch(text)?;
        }
        for (it, migration) in self.after(1) {
            if it <= version {
                connection.execute_batch(migration.sql)?;
            }
        }
        connection.execute_batch(&format!("PRAGMA user_version = {version}"))
    }

    /// The texts of a version as SQLite keeps them, in order; none for one that this code does not know.
    fn texts(&self, version: i64) -> Sql<Vec<String>> {
        let mut texts: Vec<String> = if version == 1 {
            self.first.iter().map(|&text| text.to_owned()).collect()
        } else if (2..=self.version()).contains(&version) {
            let memory = Connection::open_in_memory()?;
            self.make(&memory, version)?;
            found(&memory)?
        } else {
            Vec::new()
        };
        texts.sort_unstable();
        Ok(texts)
    }

    /// Whether a file has the layout of a version, or one of newer code that only adds to this one.
    pub(crate) fn is_known(&self, connection: &Connection, version: i64) -> Sql<bool> {
        let mut found = found(connection)?;
        if version > self.version() {
            let mine = self.texts(self.version())?;
            return Ok(is_extended(&mine, &found));
        }
        found.sort_unstable();
        Ok(found == self.texts(version)?)
    }
}

/// A number of layouts as the file has it.
fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The texts of a file's tables and indexes, and of whatever else is there.
fn found(connection: &Connection) -> Sql<Vec<String>> {
    let mut statement = connection
        .prepare("SELECT sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'")?;
    statement.query_map([], |row| row.get(0))?.collect()
}

/// Whether all of `mine` is there, with nothing but more columns, tables and indexes.
fn is_extended(mine: &[String], found: &[String]) -> bool {
    let is_table_or_index = |text: &String| {
        ["CREATE TABLE ", "CREATE INDEX ", "CREATE UNIQUE INDEX "]
            .iter()
            .any(|word| text.starts_with(word))
    };
    let is_there = |text: &String| found.iter().any(|it| it == text || has_more(text, it));
    found.iter().all(is_table_or_index) && mine.iter().all(is_there)
}

/// Whether `found` is the table of the text `mine` with more columns. SQLite puts a new one behind the
/// others, before what holds for the whole table.
fn has_more(mine: &str, found: &str) -> bool {
    if !mine.starts_with("CREATE TABLE ") || found.len() <= mine.len() {
        return false;
    }
    let more = found.len() - mine.len();
    let same = mine.bytes().zip(found.bytes());
    let same = same.take_while(|(one, other)| one == other).count();
    (0..=same).any(|place| {
        let parts = mine.get(place..).zip(found.get(place..place + more));
        parts.is_some_and(|(rest, added)| {
            found.ends_with(rest) && added.starts_with(", ") && !added.contains(['(', ')'])
        })
    })
}
