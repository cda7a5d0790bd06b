// Makes and reads LoRaWAN frames for adapters/downstream-lorawan/tests/lora_packet.rs:
// one JSON request a line in, one JSON answer a line out. Bytes are hexadecimal.
'use strict';

const lora = require('lora-packet');
const readline = require('node:readline');

const bytes = (hex) => Buffer.from(hex, 'hex');
const hex = (buffer) => (buffer ? buffer.toString('hex') : '');

// The upper half of a counter, in the order it has on the wire.
const high = (counter) => {
  const buffer = Buffer.alloc(2);
  buffer.writeUInt16LE(counter >>> 16);
  return buffer;
};

const requests = {
  join({ joinEui, devEui, nonce, appKey }) {
    const fields = {
      MType: 'Join Request',
      AppEUI: bytes(joinEui),
      DevEUI: bytes(devEui),
      DevNonce: bytes(nonce),
    };
    return { frame: hex(lora.fromFields(fields, null, null, bytes(appKey)).getPHYPayload()) };
  },

  accept({ frame, appKey, nonce }) {
    const encrypted = lora.fromWire(bytes(frame));
    const packet = lora.fromWire(lora.decryptJoinAccept(encrypted, bytes(appKey)));
    const keys = lora.generateSessionKeys10(bytes(appKey), packet.NetID, packet.AppNonce, bytes(nonce));
    return {
      signed: lora.verifyMIC(packet, null, bytes(appKey)),
      devAddr: hex(packet.DevAddr),
      nwkSKey: hex(keys.NwkSKey),
      appSKey: hex(keys.AppSKey),
      rxDelay: packet.getRxDelayDel(),
      channels: [packet.getCFListFreqChFour(), packet.getCFListFreqChFive()].map(hex),
    };
  },

  uplink({ devAddr, nwkSKey, appSKey, counter, port, payload, confirmed, ack }) {
    const fields = {
      MType: confirmed ? 'Confirmed Data Up' : 'Unconfirmed Data Up',
      DevAddr: bytes(devAddr),
      FCnt: counter & 0xffff,
      FPort: port,
      FCtrl: { ACK: ack },
      payload: bytes(payload),
    };
    const packet = lora.fromFields(fields, bytes(appSKey), bytes(nwkSKey), null, high(counter));
    return { frame: hex(packet.getPHYPayload()) };
  },

  downlink({ frame, nwkSKey, appSKey, counter }) {
    const packet = lora.fromWire(bytes(frame));
    return {
      signed: lora.verifyMIC(packet, bytes(nwkSKey), null, high(counter)),
      direction: packet.getDir(),
      confirmed: packet.isConfirmed(),
      ack: packet.getFCtrlACK(),
      more: packet.getFCtrlFPending(),
      counter: packet.getFCnt(),
      port: packet.getFPort(),
      options: hex(packet.FOpts),
      payload: packet.getFPort()
        ? hex(lora.decrypt(packet, bytes(appSKey), bytes(nwkSKey), high(counter)))
        : '',
    };
  },
};

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const { request, ...fields } = JSON.parse(line);
  console.log(JSON.stringify(requests[request](fields)));
});
