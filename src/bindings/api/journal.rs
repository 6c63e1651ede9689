//! `_Journal`, the class by which `flask_delay.journal` uses a journal.

use std::ffi::CStr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flask_delay_journal as store;
use flask_delay_journal::{
    Bound as End, Filter, Found, Job, Journal as Store, List, Order as CommandOrder, Reply,
    Retried, Settings, State, SyncLevel,
};
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyValueError;
use pyo3::ffi::c_str;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use pyo3::{PyTraverseError, PyVisit};

use crate::bindings::core::durable::has_claim;
use crate::bindings::core::executor::ExecutorCell;
use crate::bindings::core::link::{Hooks, Link, refusal};
use crate::bindings::core::metrics;
use crate::bindings::core::options::Policy;
use crate::bindings::core::task::Task;
use crate::bindings::ffi::arguments::{self, Arguments, Before, CallMethod};
use crate::bindings::run::chains::{self, Call};
use crate::bindings::run::durable::{self, Answer, Order};

#[doc = doc!("_Journal")]
#[pyclass(frozen, name = "_Journal", module = "flask_delay._native")]
pub(crate) struct Journal(Arc<Link>);

impl Journal {
    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.0
    }
}

#[pymethods]
impl Journal {
    #[new]
    #[pyo3(signature = (executor, path, *, app, sync, keep, limit, deaths, max_bytes, timeout, waiting, code, publish, revive, lane, encode_error, decode_error, dead, obey, show))]
    #[expect(clippy::too_many_arguments, reason = "most of them named")]
    fn new(
        executor: &Bound<'_, ExecutorCell>,
        path: PathBuf,
        app: String,
        sync: &str,
        keep: f64,
        limit: u64,
        deaths: u32,
        max_bytes: usize,
        timeout: f64,
        waiting: u64,
        code: String,
        publish: bool,
        revive: Py<PyAny>,
        lane: Py<PyAny>,
        encode_error: Py<PyAny>,
        decode_error: Py<PyAny>,
        dead: Py<PyAny>,
        obey: Py<PyAny>,
        show: Py<PyAny>,
    ) -> PyResult<Self> {
        let py = executor.py();
        let sync = match sync {
            "commit" => SyncLevel::Commit,
            "second" => SyncLevel::Second,
            "never" => SyncLevel::Never,
            _ => {
                return Err(PyValueError::new_err(format!(
                    "sync must be \"commit\", \"second\" or \"never\", got {sync:?}"
                )));
            }
        };
        let time = |seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        let settings = Settings {
            path,
            app,
            sync,
            keep: time(keep),
            limit,
            deaths,
            timeout: time(timeout),
            waiting,
            most: max_bytes,
            code,
        };
        let hooks = Hooks {
            revive,
            lane,
            encode_error,
            decode_error,
            dead,
            obey,
            show,
        };
        let core = executor.get().core()?;
        let link = Link::new(core, hooks, max_bytes, publish, |host| {
            py.detach(|| Store::open(settings, host))
        })?;
        Ok(Self(link))
    }

    #[doc = doc!("_Journal.know")]
    fn know(&self, names: Vec<String>) {
        self.0.tell(|journal| journal.know(names));
    }

    #[doc = doc!("_Journal.start")]
    fn start(&self, py: Python<'_>) -> PyResult<()> {
        self.0.ask(py, Store::start)
    }

    #[doc = doc!("_Journal.submit_all")]
    fn submit_all<'py>(
        &self,
        py: Python<'py>,
        calls: Vec<Call<'py>>,
    ) -> PyResult<Vec<Bound<'py, Task>>> {
        chains::submit_all(&self.0, py, calls)
    }

    #[doc = doc!("_Journal.has")]
    fn has(&self, future: &Bound<'_, Task>) -> bool {
        chains::is_of(&self.0, future)
    }

    #[doc = doc!("_Journal.held")]
    #[staticmethod]
    fn held<'py>(future: &Bound<'py, Task>) -> PyResult<Option<Bound<'py, PyDict>>> {
        durable::held(future)
    }

    #[doc = doc!("_Journal.identity")]
    #[getter]
    fn identity(&self) -> &str {
        self.0.identity()
    }

    #[doc = doc!("_Journal.accept")]
    fn accept<'py>(
        &self,
        py: Python<'py>,
        rows: Vec<Bound<'py, PyDict>>,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let rows: PyResult<_> = rows.iter().map(durable::row_of).collect();
        let answers = durable::accept(&self.0, py, rows?)?;
        let shown = answers.into_iter().map(|answer| match answer {
            Ok(Answer::Known) => true.into_bound_py_any(py),
            Ok(Answer::Full) => false.into_bound_py_any(py),
            Ok(Answer::Twin(id)) => id.into_bound_py_any(py),
            Err(error) => error.into_bound_py_any(py),
        });
        shown.collect()
    }

    #[doc = doc!("_Journal.withdraw")]
    fn withdraw(&self, future: &Bound<'_, Task>) {
        durable::withdraw(&self.0, future);
    }

    #[doc = doc!("_Journal.get")]
    fn get<'py>(&self, py: Python<'py>, id: &str) -> PyResult<Option<Bound<'py, Task>>> {
        durable::get(&self.0, py, id)
    }

    #[doc = doc!("_Journal.view")]
    fn view<'py>(&self, py: Python<'py>, id: &str) -> PyResult<Option<Bound<'py, PyDict>>> {
        match self.0.ask(py, |journal| journal.get(id))? {
            Found::Row(row) => durable::view(py, *row).map(Some),
            Found::Gone => {
                let dict = PyDict::new(py);
                dict.set_item("state", "gone")?;
                Ok(Some(dict))
            }
            Found::Unknown => Ok(None),
        }
    }

    #[doc = doc!("_Journal.rows")]
    fn rows<'py>(
        &self,
        py: Python<'py>,
        states: Vec<String>,
        names: Option<Vec<String>>,
        most: usize,
        before: Option<&str>,
    ) -> PyResult<Option<Vec<Bound<'py, PyDict>>>> {
        let filter = filter(&states, names, None)?;
        let rows = self
            .0
            .ask(py, |journal| journal.list(&filter, most, before))?;
        let views = |rows: Vec<_>| rows.into_iter().map(|row| durable::view(py, row)).collect();
        rows.map(views).transpose()
    }

    #[doc = doc!("_Journal.listed")]
    #[pyo3(signature = (kind, names, most, *, classes = None, before = None, arguments = false))]
    #[expect(clippy::too_many_arguments, reason = "some of them named")]
    fn listed<'py>(
        &self,
        py: Python<'py>,
        kind: &str,
        names: Option<Vec<String>>,
        most: usize,
        classes: Option<Vec<String>>,
        before: Option<(i64, i64)>,
        arguments: bool,
    ) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let before = before.map(|(ended, place)| End { ended, place });
        let list = match kind {
            "ready" => List::Ready,
            "held" => List::Held,
            "running" => List::Running,
            "ended" => List::Ended(before),
            "failed" => List::Failed(before, classes),
            _ => return Err(PyValueError::new_err(format!("no list is {kind:?}"))),
        };
        let rows = self
            .0
            .ask(py, |journal| journal.listed(list, names, most, arguments))?;
        rows.into_iter().map(|row| durable::view(py, row)).collect()
    }

    #[doc = doc!("_Journal.classes")]
    fn classes(
        &self,
        py: Python<'_>,
        names: Option<Vec<String>>,
        since: i64,
    ) -> PyResult<Vec<(Option<String>, u64, i64)>> {
        let found = self.0.ask(py, |journal| journal.classes(names, since))?;
        Ok(found
            .into_iter()
            .map(|it| (it.name, it.count, it.last))
            .collect())
    }

    #[doc = doc!("_Journal.lacking")]
    fn lacking(&self, py: Python<'_>, ids: Vec<String>) -> PyResult<Vec<String>> {
        self.0.ask(py, |journal| journal.lacking(ids))
    }

    #[doc = doc!("_Journal.version")]
    fn version(&self, py: Python<'_>) -> PyResult<(u64, i64, u64)> {
        let it = self.0.ask(py, Store::version)?;
        Ok((it.opened, it.others, it.own))
    }

    #[doc = doc!("_Journal.names")]
    fn names(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        self.0.ask(py, Store::names)
    }

    #[doc = doc!("_Journal.paused")]
    fn paused(&self, py: Python<'_>) -> PyResult<Vec<Option<String>>> {
        self.0.ask(py, Store::paused)
    }

    #[doc = doc!("_Journal.retry")]
    fn retry(&self, py: Python<'_>, id: &str) -> PyResult<(&'static str, Option<String>)> {
        Ok(match self.0.ask(py, |journal| journal.retry(id))? {
            Retried::Yes => ("retried", None),
            Retried::Not(state) => (durable::name_of_state(state), None),
            Retried::Plain => ("plain", None),
            Retried::Twin(id) => ("twin", Some(id)),
            Retried::Follows(id) => ("follows", id),
            Retried::Gone => ("gone", None),
            Retried::Unknown => ("unknown", None),
        })
    }

    #[doc = doc!("_Journal.pause")]
    fn pause(&self, py: Python<'_>, name: Option<&str>) -> PyResult<()> {
        self.0.ask(py, |journal| journal.pause(name))
    }

    #[doc = doc!("_Journal.resume")]
    fn resume(&self, py: Python<'_>, name: Option<&str>) -> PyResult<()> {
        self.0.ask(py, |journal| journal.resume(name))
    }

    #[doc = doc!("_Journal.prune")]
    fn prune(
        &self,
        py: Python<'_>,
        states: Vec<String>,
        names: Option<Vec<String>>,
        ended_before: i64,
    ) -> PyResult<u64> {
        let filter = filter(&states, names, Some(ended_before))?;
        self.0.ask(py, |journal| journal.prune(&filter))
    }

    #[doc = doc!("_Journal.adopt")]
    fn adopt(&self, executor: &Bound<'_, ExecutorCell>) -> PyResult<()> {
        self.0.adopt(executor.get().core()?);
        Ok(())
    }

    #[doc = doc!("_Journal.claimed")]
    fn claimed<'py>(&self, py: Python<'py>, id: &str) -> Option<Bound<'py, Task>> {
        let found = self.0.find(py, id);
        found.filter(|task| has_claim(task.get()))
    }

    #[doc = doc!("_Journal.command")]
    fn command(
        &self,
        py: Python<'_>,
        verb: String,
        target: String,
        actor: Option<String>,
        is_task: bool,
        patience: f64,
    ) -> PyResult<(&'static str, Option<String>)> {
        let order = CommandOrder {
            verb,
            target,
            actor,
            is_task,
        };
        let patience = Duration::try_from_secs_f64(patience).unwrap_or_default();
        let reply = self.0.ask(py, |journal| journal.command(order, patience))?;
        Ok(match reply {
            Reply::Done(outcome) => ("done", Some(outcome)),
            Reply::Asked => ("asked", None),
            Reply::Gone => ("gone", None),
            Reply::Nowhere => ("nowhere", None),
            Reply::Here => ("here", None),
            Reply::Not(state) => (
                "not running",
                Some(durable::name_of_state(state).to_owned()),
            ),
        })
    }

    #[doc = doc!("_Journal.others")]
    fn others(&self, py: Python<'_>, patience: f64) -> PyResult<Vec<(i64, Option<String>)>> {
        let patience = Duration::try_from_secs_f64(patience).unwrap_or_default();
        let told = self.0.ask(py, |journal| journal.others(patience))?;
        Ok(told.into_iter().map(|it| (it.pid, it.text)).collect())
    }

    #[doc = doc!("_Journal.take_command")]
    fn take_command(&self, py: Python<'_>, number: i64) -> PyResult<bool> {
        self.0.ask(py, |journal| journal.take_command(number))
    }

    #[doc = doc!("_Journal.settle")]
    fn settle(&self, number: i64, outcome: String) {
        self.0.tell(|journal| journal.settle(number, outcome));
    }

    #[doc = doc!("_Journal.jobs")]
    fn jobs<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let jobs = self.0.ask(py, Store::jobs)?;
        jobs.into_iter().map(|it| job(py, it)).collect()
    }

    #[doc = doc!("_Journal.stats")]
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.0.ask(py, Store::stats)?;
        let dict = PyDict::new(py);
        for (name, value) in [
            ("ready", stats.ready),
            ("scheduled", stats.scheduled),
            ("running", stats.running),
            ("blocked", stats.blocked),
            ("parked", stats.parked),
            ("dead", stats.dead),
            ("processes", stats.processes),
            ("bytes", stats.bytes),
        ] {
            dict.set_item(name, value)?;
        }
        dict.set_item("oldest", stats.oldest)?;
        Ok(dict)
    }

    #[doc = doc!("_Journal.record")]
    fn record(&self, about: String) {
        self.0.set_about(about.clone());
        self.0.tell(|journal| {
            journal.record();
            journal.tell_about(about);
        });
    }

    #[doc = doc!("_Journal.note")]
    fn note(&self, id: &str, verb: &str, actor: Option<&str>) {
        self.0.tell(|journal| journal.note(id, verb, actor));
    }

    #[doc = doc!("_Journal.steps")]
    fn steps(&self, py: Python<'_>, step: i64) -> PyResult<Vec<Step>> {
        let found = self.0.ask(py, |journal| journal.steps(step))?;
        let pair = |it: [u64; 2]| it.map(metrics::seconds);
        let step = |it: store::Step| (it.at, it.ended, it.levels, it.times.map(|it| it.map(pair)));
        Ok(found.into_iter().map(step).collect())
    }

    #[doc = doc!("_Journal.figures")]
    fn figures<'py>(&self, py: Python<'py>, bounds: Vec<f64>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        for (name, figures) in self.0.ask(py, Store::figures)? {
            dict.set_item(name, metrics::to_dict(py, &figures, &bounds)?)?;
        }
        Ok(dict)
    }

    #[doc = doc!("_Journal.minutes")]
    fn minutes(&self, py: Python<'_>, since: i64) -> PyResult<Vec<(String, i64, u64)>> {
        self.0.ask(py, |journal| journal.minutes(since))
    }

    #[doc = doc!("_Journal.workers")]
    fn workers<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let workers = self.0.ask(py, Store::workers)?;
        workers.into_iter().map(|it| worker(py, it)).collect()
    }

    #[doc = doc!("_Journal.events")]
    fn events(&self, py: Python<'_>, id: &str) -> PyResult<Vec<Event>> {
        let found = self.0.ask(py, |journal| journal.events(id))?;
        let event = |it: store::Event| (it.at, it.kind, it.text, it.actor, it.pid);
        Ok(found.into_iter().map(event).collect())
    }

    #[doc = doc!("_Journal.links")]
    fn links(&self, py: Python<'_>, id: &str) -> PyResult<(Vec<store::Link>, Vec<store::Link>)> {
        let found = self.0.ask(py, |journal| journal.links(id))?;
        Ok((found.follows, found.followed))
    }

    #[doc = doc!("_Journal.stop_claiming")]
    fn stop_claiming(&self) {
        self.0.tell(Store::stop_claiming);
    }

    #[doc = doc!("_Journal.close")]
    fn close(&self, py: Python<'_>) {
        self.0.close(py);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Tasks have the link, too.
        if Arc::strong_count(&self.0) == 1 {
            self.0.visit(&visit)?;
        }
        Ok(())
    }
}

fn filter(
    states: &[String],
    functions: Option<Vec<String>>,
    ended_before: Option<i64>,
) -> PyResult<Filter> {
    let state = |name: &String| {
        let found = State::ALL
            .into_iter()
            .find(|it| durable::name_of_state(*it) == name);
        found.ok_or_else(|| PyValueError::new_err(format!("there is no state {name:?}")))
    };
    Ok(Filter {
        states: states.iter().map(state).collect::<PyResult<_>>()?,
        functions,
        ended_before,
    })
}

/// First second, tasks that returned and failed, levels, times in seconds.
type Step = (i64, [u64; 2], [u64; 3], [Option<[f64; 2]>; 2]);

/// When, what, more, the person, the process.
type Event = (i64, String, Option<String>, Option<String>, i64);

/// A process as a dict. Its times are in microseconds since 1970.
fn worker(py: Python<'_>, worker: store::Worker) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("pid", worker.pid)?;
    dict.set_item("claims", worker.claims)?;
    dict.set_item("began", worker.began_at)?;
    dict.set_item("seen", worker.seen_at)?;
    dict.set_item("about", worker.vitals.about)?;
    let names = ["threads", "running", "idle", "waiting", "stuck"];
    for (name, count) in names.into_iter().zip(worker.vitals.threads) {
        dict.set_item(name, count)?;
    }
    dict.set_item("memory", worker.vitals.memory)?;
    dict.set_item("lost", worker.lost_at)?;
    dict.set_item("tasks", worker.tasks)?;
    dict.set_item("is_own", worker.is_own)?;
    Ok(dict)
}

/// A job as a dict. Its times are in microseconds since 1970.
pub(crate) fn job(py: Python<'_>, job: Job) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("id", job.job)?;
    dict.set_item("name", job.name)?;
    dict.set_item("tick", job.tick)?;
    dict.set_item("due", job.due)?;
    dict.set_item("ran", job.ran)?;
    dict.set_item("task", job.task)?;
    dict.set_item("runs", job.runs)?;
    dict.set_item("left_out", job.left_out)?;
    dict.set_item("paused", job.is_paused)?;
    Ok(dict)
}

struct Submit;

impl CallMethod for Submit {
    type Class = Journal;

    const NAME: &CStr = c"submit";
    const DOC: &CStr = c_str!(concat!(
        "submit($self, name, pool, policy, options, once, disk, executor, fn, /, *args, **kwargs)\n--\n\n",
        doc!("_Journal.submit")
    ));
    const BEFORE: usize = ORDER;
    const MISSING: &str = "submit() needs the function to run";

    fn call<'py>(
        this: &Bound<'py, Journal>,
        before: &Before<'_, 'py>,
        arguments: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let order = order(before, 0)?;
        durable::submit(&this.get().0, order, arguments).map(Bound::into_any)
    }
}

struct Draft;

impl CallMethod for Draft {
    type Class = Journal;

    const NAME: &CStr = c"draft";
    const DOC: &CStr = c_str!(concat!(
        "draft($self, name, pool, policy, options, once, disk, executor, fn, /, *args, **kwargs)\n--\n\n",
        doc!("_Journal.draft")
    ));
    const BEFORE: usize = ORDER;
    const MISSING: &str = "draft() needs the function to run";

    fn call<'py>(
        this: &Bound<'py, Journal>,
        before: &Before<'_, 'py>,
        arguments: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let order = order(before, 0)?;
        let made = durable::draft(&this.get().0, order, arguments)?;
        made.into_bound_py_any(this.py())
    }
}

/// How many arguments say what an order is: name, pool, policy, options, once, disk, executor.
pub(crate) const ORDER: usize = 7;

/// The order that begins at that argument.
pub(crate) fn order<'py>(before: &Before<'_, 'py>, first: usize) -> PyResult<Order<'py>> {
    let text = |place| -> PyResult<Option<String>> {
        let text = before.get(first + place).map(Bound::cast_into::<PyString>);
        text.transpose()?.map(|text| text.extract()).transpose()
    };
    let pool = before.get(first + 1).map(|pool| pool.extract());
    let executor = before
        .get(first + 6)
        .map(Bound::cast_into::<ExecutorCell>)
        .transpose()?;
    Ok(Order {
        name: text(0)?.unwrap_or_default(),
        pool: durable::pool_of(pool.transpose()?.unwrap_or(0)),
        policy: before
            .get(first + 2)
            .map(Bound::cast_into::<Policy>)
            .transpose()?,
        options: text(3)?,
        once: text(4)?,
        disk: before
            .get(first + 5)
            .is_some_and(|disk| disk.is_truthy().unwrap_or(false)),
        executor: executor
            .map(|executor| executor.get().core().map(Arc::clone))
            .transpose()?,
        follows: None,
    })
}

/// Adds both to the class.
pub(crate) fn add(py: Python<'_>) -> PyResult<()> {
    arguments::add::<Submit>(py)?;
    arguments::add::<Draft>(py)
}

#[doc = doc!("_journal_check")]
#[pyfunction]
pub(crate) fn _journal_check(py: Python<'_>, path: PathBuf) -> Vec<(bool, String)> {
    py.detach(|| flask_delay_journal::check(&path))
}

#[doc = doc!("_journal_inspect")]
#[pyfunction]
pub(crate) fn _journal_inspect(py: Python<'_>, path: PathBuf) -> Vec<(bool, String)> {
    py.detach(|| flask_delay_journal::inspect(&path))
}

#[doc = doc!("_journal_backup")]
#[pyfunction]
pub(crate) fn _journal_backup(py: Python<'_>, path: PathBuf, to: PathBuf) -> PyResult<()> {
    py.detach(|| flask_delay_journal::backup(&path, &to))
        .map_err(refusal)
}

#[doc = doc!("_journal_salvage")]
#[pyfunction]
pub(crate) fn _journal_salvage(
    py: Python<'_>,
    path: PathBuf,
    to: PathBuf,
) -> PyResult<(u64, u64, u64, bool)> {
    let done = py
        .detach(|| flask_delay_journal::salvage(&path, &to))
        .map_err(refusal)?;
    Ok((done.tasks, done.unfinished, done.lost, done.is_partial))
}
