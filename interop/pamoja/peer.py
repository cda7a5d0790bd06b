"""Plays a packet forwarder and a Basics Station for adapters/downstream-lorawan/tests/pamoja.rs:
one JSON request a line in, one JSON answer a line out. Bytes are hexadecimal."""

import json
import sys

from pamoja import gateway
from pamoja.lora import link

EUI = "b827ebfffe010203"


def push(frames):
    """A datagram with a LoRa frame for each, and an FSK one for the last."""
    packets = [
        gateway.Rxpk(868_100_000, bytes.fromhex(frame), link=link(9, 125_000), rssi_dbm=-97,
                     snr_db=-3.2, timestamp_us=3_512_348_611)
        for frame in frames
    ]
    packets.append(gateway.Rxpk(868_800_000, bytes.fromhex(frames[-1]), bitrate_bps=50_000,
                                rssi_dbm=-80, timestamp_us=7))
    counts = gateway.Stat(received=2, received_ok=1, forwarded=1, acknowledged_percent=100.0)
    packet = gateway.Packet(gateway.PacketKind.PUSH_DATA, 0x1234, gateway=EUI, packets=packets,
                            status=counts)
    return {"datagram": gateway.encode(packet).hex()}


def pull():
    packet = gateway.Packet(gateway.PacketKind.PULL_DATA, 0x7A01, gateway=EUI)
    return {"datagram": gateway.encode(packet).hex()}


def tx_ack(status):
    packet = gateway.Packet(gateway.PacketKind.TX_ACK, 0x00AB, gateway=EUI, tx_status=status)
    return {"datagram": gateway.encode(packet).hex()}


def read(datagram):
    packet = gateway.parse(bytes.fromhex(datagram))
    answer = {"kind": str(packet.kind), "token": packet.token}
    if packet.transmit:
        sent = packet.transmit
        answer |= {
            "timestamp": sent.timestamp_us,
            "frequency": sent.frequency_hz,
            "spreading_factor": sent.link.spreading_factor,
            "bandwidth": sent.link.bandwidth_hz,
            "power": sent.power_dbm,
            "inverted": sent.invert_polarity,
            "frame": sent.payload.hex(),
        }
    return answer


def heard(frame):
    levels = gateway.StationLevels(rctx=1, xtime=(1 << 54) + 5, rssi=-60.0, snr=5.25)
    message = gateway.station_heard(bytes.fromhex(frame), 5, 868_100_000, levels)
    return {"message": gateway.station_encode(message)}


def station(message):
    read = gateway.station_parse(message)
    answer = {"kind": str(read.msgtype)}
    if read.msgtype == gateway.StationKind.DOWNLINK:
        answer |= {
            "class": str(read.class_),
            "diid": read.diid,
            "frame": read.payload.hex(),
            "rx_delay": read.rx_delay,
            "rx1": [read.rx1.data_rate, read.rx1.frequency_hz],
            "rx2": [read.rx2.data_rate, read.rx2.frequency_hz],
            "xtime": read.xtime,
            "rctx": read.rctx,
        }
    if read.msgtype == gateway.StationKind.ROUTER_CONFIG:
        answer |= {"region": read.region, "data_rates": len(read.data_rates)}
    return answer


def discovery():
    return {"question": gateway.station_discovery(EUI)}


def router(answer):
    read = gateway.station_router_parse(answer)
    return {"uri": read.uri, "error": read.error}


REQUESTS = [push, pull, tx_ack, read, heard, station, discovery, router]

for line in sys.stdin:
    fields = json.loads(line)
    request = fields.pop("request")
    answer = next(each for each in REQUESTS if each.__name__ == request)(**fields)
    print(json.dumps(answer), flush=True)
