mod copies;
mod device;
mod downlinks;
mod joins;
mod settings;
mod uplinks;
