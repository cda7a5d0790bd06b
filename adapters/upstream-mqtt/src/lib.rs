pub mod pooled;

pub use pooled::{
    MqttEncoding, MqttEventTopic, MqttPoolCommands, MqttPoolConfig, MqttPoolStats, MqttPoolTopics,
    MqttPoolUpstream, MqttPoolWire, MqttSubscriptions, MqttVersion, Password,
};
