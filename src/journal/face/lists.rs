//! Lists of tasks.

use super::journal::Journal;
use crate::api::lists::{Class, Filter, List, Query, Version};
use crate::api::operation::Operation;
use crate::api::{Error, Row};

impl Journal {
    /// Up to `most` of the app's tasks that are meant, newest first; those from before the task
    /// with the id `before`. `None` if there is no such task.
    ///
    /// # Errors
    ///
    /// As for `get`.
    pub fn list(
        &self,
        filter: &Filter,
        most: usize,
        before: Option<&str>,
    ) -> Result<Option<Vec<Row>>, Error> {
        let mut below = i64::MAX;
        if let Some(id) = before {
            match self.ask(true, |answer| Operation::Place(id.to_owned(), answer))? {
                Some(place) => below = place,
                None => return Ok(None),
            }
        }
        let mut found = Vec::new();
        while found.len() < most {
            let query = Query::Newest(filter.clone(), below, most - found.len());
            let page = self.ask(true, |answer| Operation::List(Box::new(query), answer))?;
            found.extend(page.rows);
            match page.next {
                Some(next) => below = next,
                None => break,
            }
        }
        Ok(Some(found))
    }

    /// Up to `most` tasks of a list, at most 2,000, without their results: of one of these functions, or
    /// of any. With `arguments`, with the beginning of these.
    ///
    /// # Errors
    ///
    /// As for `get`.
    pub fn listed(
        &self,
        list: List,
        functions: Option<Vec<String>>,
        most: usize,
        arguments: bool,
    ) -> Result<Vec<Row>, Error> {
        let query = Box::new(Query::List(list, functions, most, arguments));
        Ok(self
            .ask(true, |answer| Operation::List(query, answer))?
            .rows)
    }

    /// The last failures of one of these functions, or of any, by their classes: at most 5,000, and from
    /// `since` on.
    ///
    /// # Errors
    ///
    /// As for `get`.
    pub fn classes(&self, functions: Option<Vec<String>>, since: i64) -> Result<Vec<Class>, Error> {
        self.ask(true, |answer| Operation::Classes(functions, since, answer))
    }

    /// Those of the ids that no task has or has had.
    ///
    /// # Errors
    ///
    /// As for `get`.
    pub fn lacking(&self, ids: Vec<String>) -> Result<Vec<String>, Error> {
        self.ask(true, |answer| Operation::Lacking(ids, answer))
    }

    /// What changes with each commit, in this process.
    ///
    /// # Errors
    ///
    /// As for `get`.
    pub fn version(&self) -> Result<Version, Error> {
        self.ask(true, Operation::Version)
    }
}
