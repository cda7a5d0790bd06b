//! The control endpoint: faults and questions about the hubs, over plain HTTP on this machine.
//!
//! It is a listener of its own, so that no fault meets it.

use std::fmt::Display;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::clock::Ticks;
use crate::cloud::Cloud;
use crate::faults::{Fault, Faults, Plan};
use crate::hub::Hub;
use crate::hub::device::Device;
use crate::hub::record::Accepted;
use crate::server::PAUSE;

/// Messages, or devices, that an answer tells unless it is asked for more.
const TOP: usize = 100;

const HELP: &str = "\
GET /hubs                  names of the hubs; every other path takes ?hub=NAME, the first one by default
GET /stats                 connections, attached devices, accepted messages
GET /connections           what each connection carries
GET /devices               devices and modules; ?top=N&after=ID
GET /devices/ID            one of them, with its twin
GET /telemetry             the latest accepted messages; ?top=N&device=ID
DELETE /telemetry          forgets them and starts to count anew
POST /faults               makes a fault, {\"fault\": \"cut\"}, or an array of them
POST /plan                 follows a plan, {\"seed\": 7, \"repeat\": 3, \"steps\": [...]}; answers its schedule
GET /plan                  the schedule that is followed
DELETE /plan               stops it
";

/// A plan and the hub that it is for.
#[derive(Debug, Clone)]
struct Playing {
    hub: Arc<Hub>,
    plan: Arc<Plan>,
}

#[derive(Debug, Clone)]
struct Control {
    cloud: Arc<Cloud>,
    playing: Arc<watch::Sender<Option<Playing>>>,
}

/// Serves until it is dropped.
pub(crate) async fn serve(listener: TcpListener, cloud: Arc<Cloud>) {
    let playing = Arc::new(watch::Sender::new(None));
    let mut tasks = JoinSet::new();
    tasks.spawn(play(playing.subscribe()));
    let app = routes().with_state(Control { cloud, playing });
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "A task of the control endpoint has failed");
                }
                continue;
            }
        };
        match accepted {
            Ok((stream, _from)) => {
                tasks.spawn(answer(stream, app.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "A control connection cannot be accepted");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, app: Router) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    if let Err(error) = served.await {
        tracing::debug!(%error, "Control connection is broken off");
    }
}

/// Follows the plan that is set, from its start whenever another one is.
async fn play(mut playing: watch::Receiver<Option<Playing>>) {
    loop {
        let current = playing.borrow_and_update().clone();
        let follow = async {
            if let Some(current) = current {
                Faults::new(current.hub).play(&current.plan).await;
                tracing::info!("The plan of faults is over");
            }
            std::future::pending::<()>().await;
        };
        let changed = tokio::select! {
            changed = playing.changed() => changed,
            () = follow => return,
        };
        if changed.is_err() {
            return;
        }
    }
}

fn routes() -> Router<Control> {
    Router::new()
        .route("/", get(async || HELP))
        .route("/hubs", get(hubs))
        .route("/stats", get(stats))
        .route("/connections", get(connections))
        .route("/devices", get(devices))
        .route("/devices/{id}", get(device))
        .route("/telemetry", get(telemetry).delete(forget))
        .route("/faults", axum::routing::post(make))
        .route("/plan", get(schedule).post(follow).delete(stop))
        .fallback(async || unknown("no such path; GET / lists them"))
}

/// What may stand behind the question mark.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    hub: Option<String>,
    device: Option<String>,
    after: Option<String>,
    top: Option<usize>,
}

type Answer = Result<Json<Value>, Refusal>;

/// Why a question has no answer.
#[derive(Debug)]
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

fn unknown(what: &str) -> Refusal {
    Refusal(StatusCode::NOT_FOUND, what.to_owned())
}

fn bad(error: impl Display) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, error.to_string())
}

impl Control {
    fn hub(&self, question: &Question) -> Result<Arc<Hub>, Refusal> {
        match &question.hub {
            None => Ok(self.cloud.default_hub()),
            Some(name) => self
                .cloud
                .hub_at(name)
                .ok_or_else(|| unknown("no such hub; GET /hubs lists them")),
        }
    }
}

async fn hubs(State(control): State<Control>) -> Json<Value> {
    let hubs = control.cloud.hubs();
    let names: Vec<&str> = hubs.iter().map(|hub| &*hub.host).collect();
    Json(json!(names))
}

async fn stats(State(control): State<Control>, Query(question): Query<Question>) -> Answer {
    let hub = control.hub(&question)?;
    let attached = hub.state().attached;
    Ok(Json(json!({
        "connections": hub.connections().len(),
        "connectionsOpened": hub.opened(),
        "attachedDevices": attached,
        "messages": hub.record.count(),
        "throttled": hub.throttles.refused(),
    })))
}

async fn connections(State(control): State<Control>, Query(question): Query<Question>) -> Answer {
    let hub = control.hub(&question)?;
    let connections = hub.connections().into_iter().map(|peer| {
        let stats = peer.stats();
        json!({
            "id": stats.id.0,
            "devices": stats.devices,
            "tokens": stats.tokens,
            "sessions": stats.sessions,
            "links": stats.links,
            "messages": stats.messages,
        })
    });
    Ok(Json(connections.collect()))
}

async fn devices(State(control): State<Control>, Query(question): Query<Question>) -> Answer {
    let hub = control.hub(&question)?;
    let state = hub.state();
    let devices = state.registry.after(question.after.as_deref());
    let devices = devices
        .take(question.top.unwrap_or(TOP))
        .map(|(id, device)| describe(&hub, id, device));
    Ok(Json(devices.collect()))
}

async fn device(
    State(control): State<Control>,
    Path(id): Path<String>,
    Query(question): Query<Question>,
) -> Answer {
    let hub = control.hub(&question)?;
    let state = hub.state();
    let Some(device) = state.registry.get(&id) else {
        return Err(unknown("the device is not registered"));
    };
    let mut described = describe(&hub, &id, device);
    described["twin"] = state.twin(&id).unwrap_or_default();
    Ok(Json(described))
}

fn describe(hub: &Hub, id: &str, device: &Device) -> Value {
    json!({
        "id": id,
        "enabled": device.enabled,
        "connected": device.links > 0,
        "listens": {
            "messages": device.messages.is_some(),
            "methods": device.methods.is_some(),
            "desired": device.desired.is_some(),
        },
        "accepted": hub.record.count_of(id),
    })
}

async fn telemetry(State(control): State<Control>, Query(question): Query<Question>) -> Answer {
    let accepted = control.hub(&question)?.record.accepted();
    let of_device = |message: &&Accepted| {
        question
            .device
            .as_ref()
            .is_none_or(|id| *id == message.device_id)
    };
    let mut latest: Vec<Value> = accepted
        .iter()
        .rev()
        .filter(of_device)
        .take(question.top.unwrap_or(TOP))
        .map(message)
        .collect();
    latest.reverse();
    Ok(Json(latest.into()))
}

fn message(message: &Accepted) -> Value {
    let mut told = json!({
        "device": message.device_id,
        "enqueued": Ticks::from(message.enqueued).to_string(),
        "connection": message.connection.0,
        "messageId": message.message_id,
        "correlationId": message.correlation_id,
        "contentType": message.content_type,
        "contentEncoding": message.content_encoding,
        "userId": message.user_id,
        "properties": message.properties,
        "annotations": message.annotations,
    });
    match std::str::from_utf8(&message.body) {
        Ok(text) => told["body"] = text.into(),
        Err(_) => told["bodyBase64"] = BASE64.encode(&message.body).into(),
    }
    told
}

async fn forget(State(control): State<Control>, Query(question): Query<Question>) -> Answer {
    control.hub(&question)?.record.clear();
    Ok(Json(json!({})))
}

async fn make(
    State(control): State<Control>,
    Query(question): Query<Question>,
    Json(body): Json<Value>,
) -> Answer {
    let bodies = match body {
        Value::Array(bodies) => bodies,
        body => vec![body],
    };
    let faults: Result<Vec<Fault>, _> = bodies.into_iter().map(serde_json::from_value).collect();
    let faults = faults.map_err(bad)?;
    let script = Faults::new(control.hub(&question)?);
    let made: Vec<bool> = faults.iter().map(|fault| script.apply(fault)).collect();
    if made.contains(&false) {
        let text = "there is no such device or connection for some of the faults";
        return Err(unknown(text));
    }
    Ok(Json(json!({ "made": made.len() })))
}

async fn follow(
    State(control): State<Control>,
    Query(question): Query<Question>,
    Json(plan): Json<Value>,
) -> Answer {
    let plan = Plan::from_json(&plan.to_string()).map_err(bad)?;
    let hub = control.hub(&question)?;
    let schedule = json!(plan.schedule());
    let plan = Arc::new(plan);
    control.playing.send_replace(Some(Playing { hub, plan }));
    Ok(Json(schedule))
}

async fn schedule(State(control): State<Control>) -> Json<Value> {
    let playing = control.playing.borrow().clone();
    Json(playing.map_or(Value::Null, |playing| json!(playing.plan.schedule())))
}

async fn stop(State(control): State<Control>) -> Json<Value> {
    control.playing.send_replace(None);
    Json(json!({}))
}
