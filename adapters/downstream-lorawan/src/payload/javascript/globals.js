// What scripts find there in ChirpStack and in The Things Stack besides the language: a `Buffer`, as
// far as codecs use Node's, and a `console` that says nothing. Evaluated before the script.
(function (global) {
  "use strict";
  var alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

  function fromHex(text) {
    var bytes = [];
    for (var i = 0; i + 1 < text.length; i += 2) {
      var byte = parseInt(text.substr(i, 2), 16);
      if (isNaN(byte)) break;
      bytes.push(byte);
    }
    return bytes;
  }

  function fromBase64(text) {
    var bytes = [], bits = 0, count = 0;
    for (var i = 0; i < text.length; i += 1) {
      var value = alphabet.indexOf(text[i].replace("-", "+").replace("_", "/"));
      if (value < 0) continue;
      bits = (bits << 6 | value) & 0xffff;
      count += 6;
      if (count >= 8) {
        count -= 8;
        bytes.push(bits >> count & 255);
      }
    }
    return bytes;
  }

  function fromUtf8(text) {
    var escaped = unescape(encodeURIComponent(text));
    return Array.prototype.map.call(escaped, function (c) { return c.charCodeAt(0); });
  }

  function parse(text, encoding) {
    switch (String(encoding || "utf8").toLowerCase()) {
      case "hex": return fromHex(text);
      case "base64": case "base64url": return fromBase64(text);
      case "ascii": case "latin1": case "binary":
        return Array.prototype.map.call(text, function (c) { return c.charCodeAt(0) & 255; });
      default: return fromUtf8(text);
    }
  }

  function toBase64(bytes) {
    var text = "";
    for (var i = 0; i < bytes.length; i += 3) {
      var rest = bytes.length - i;
      var bits = bytes[i] << 16 | (bytes[i + 1] || 0) << 8 | (bytes[i + 2] || 0);
      text += alphabet[bits >> 18] + alphabet[bits >> 12 & 63];
      text += rest > 1 ? alphabet[bits >> 6 & 63] : "=";
      text += rest > 2 ? alphabet[bits & 63] : "=";
    }
    return text;
  }

  function latin1(bytes) {
    return Array.prototype.map.call(bytes, function (byte) { return String.fromCharCode(byte); }).join("");
  }

  function view(bytes) {
    return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  // An old form that the field still writes: `new Buffer(what, encoding)`.
  class Buffer extends Uint8Array {
    constructor(what, second, third) {
      if (typeof what === "string") super(parse(what, second));
      else if (what instanceof ArrayBuffer) super(what, second, third);
      else super(what);
    }

    static from(what, second, third) { return new Buffer(what, second, third); }
    static alloc(size) { return new Buffer(size); }
    static isBuffer(what) { return what instanceof Buffer; }

    static concat(list) {
      var all = [];
      list.forEach(function (part) { Array.prototype.push.apply(all, Array.from(part)); });
      return new Buffer(all);
    }

    // Node's shares its memory with the whole.
    slice(start, end) { return this.subarray(start, end); }

    toString(encoding, start, end) {
      var part = this.subarray(start || 0, end === undefined ? this.length : end);
      switch (String(encoding || "utf8").toLowerCase()) {
        case "hex":
          return Array.from(part, function (byte) { return (byte + 256).toString(16).slice(1); }).join("");
        case "base64": return toBase64(part);
        case "ascii": case "latin1": case "binary": return latin1(part);
        default: return decodeURIComponent(escape(latin1(part)));
      }
    }

    readUIntBE(at, length) {
      var value = 0;
      for (var i = 0; i < length; i += 1) value = value * 256 + this.readUInt8(at + i);
      return value;
    }

    readUIntLE(at, length) {
      var value = 0;
      for (var i = length - 1; i >= 0; i -= 1) value = value * 256 + this.readUInt8(at + i);
      return value;
    }

    readIntBE(at, length) { return signed(this.readUIntBE(at, length), length); }
    readIntLE(at, length) { return signed(this.readUIntLE(at, length), length); }
  }

  function signed(value, length) {
    var limit = Math.pow(2, 8 * length - 1);
    return value >= limit ? value - 2 * limit : value;
  }

  function define(name, value) {
    Object.defineProperty(Buffer.prototype, name, { value: value, writable: true, configurable: true });
    // Node has both ways to write it.
    if (name.indexOf("UInt") > 0) define(name.replace("UInt", "Uint"), value);
  }

  [["UInt8", "Uint8", 1], ["Int8", "Int8", 1], ["UInt16", "Uint16", 2], ["Int16", "Int16", 2],
    ["UInt32", "Uint32", 4], ["Int32", "Int32", 4], ["Float", "Float32", 4], ["Double", "Float64", 8],
    ["BigUInt64", "BigUint64", 8], ["BigInt64", "BigInt64", 8]].forEach(function (kind) {
    var node = kind[0], native = kind[1], size = kind[2];
    (size === 1 ? [["", false]] : [["BE", false], ["LE", true]]).forEach(function (order) {
      define("read" + node + order[0], function (at) {
        return view(this)["get" + native](at || 0, order[1]);
      });
      define("write" + node + order[0], function (value, at) {
        view(this)["set" + native](at || 0, value, order[1]);
        return (at || 0) + size;
      });
    });
  });

  // The engine looks at the time between a script's steps and within most natives, but not within
  // these, which count to any length. So many elements take them some 100 ms.
  var longest = 1 << 20;
  ["concat", "copyWithin", "fill", "flat", "flatMap", "join", "reverse", "shift", "slice", "sort",
    "splice", "toLocaleString", "toReversed", "toSorted", "toSpliced", "unshift"].forEach(function (name) {
    var native = Array.prototype[name], apply = Reflect.apply;
    Object.defineProperty(Array.prototype, name, { value: function () {
      if (this.length > longest) throw new RangeError("an array is longer than " + longest);
      return apply(native, this, arguments);
    } });
  });

  function nothing() {}

  global.Buffer = Buffer;
  global.console = { log: nothing, debug: nothing, info: nothing, warn: nothing, error: nothing };
})(globalThis);
