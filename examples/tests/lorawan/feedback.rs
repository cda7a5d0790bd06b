//! What a hub's users are told of their messages.

use std::time::{Duration, SystemTime};

use gateway_core::credential::{ConnectionString, SasToken};
use hub_simulator::HubSimulator;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Asks over HTTP until there is a batch, and gives its records.
pub(crate) async fn records(hub: &HubSimulator) -> Vec<Value> {
    let policy = hub.policy_connection_string("service");
    let policy: ConnectionString = policy.parse().unwrap();
    let name = policy.host_name();
    let policy = policy.policy().unwrap();
    let key = policy.keys().primary();
    let expires = SystemTime::now() + Duration::from_secs(3600);
    let token = SasToken::sign_with_policy(name, policy.name(), key, expires);
    let request = format!(
        "GET /messages/serviceBound/feedback?api-version=2021-04-12 HTTP/1.1\r\nHost: {name}\r\n\
         Authorization: {}\r\nConnection: close\r\n\r\n",
        token.secret_text()
    );
    loop {
        let mut stream = TcpStream::connect(hub.https_addr()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        if head.starts_with("HTTP/1.1 200") {
            return serde_json::from_str(body).unwrap();
        }
        assert!(head.starts_with("HTTP/1.1 204"), "{answer}");
        // A batch is made when its time has come.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
