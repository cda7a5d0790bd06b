// Finds the script's functions under all the names in use, and speaks JSON with them. Evaluated
// after the script; its value is an object with `decode` and `encode`, each of which takes and gives
// JSON text, or gives null where the script has no such function.
(function () {
  "use strict";
  // The script may have changed what is global.
  var parse = JSON.parse, stringify = JSON.stringify;

  function texts(list) {
    if (list === undefined || list === null) return [];
    return (Array.isArray(list) ? list : [list]).map(String);
  }

  function returned(value) {
    return value !== null && typeof value === "object" ? value : {};
  }

  // The Things Stack's: what was decoded, in units that are the same for all devices. A failure of it
  // is odd, but no reason to lose what was decoded.
  function normalize(data, warnings) {
    if (typeof normalizeUplink !== "function") return undefined;
    try {
      var result = returned(normalizeUplink({ data: data }));
      texts(result.warnings).concat(texts(result.errors)).forEach(function (text) {
        warnings.push("normalizeUplink: " + text);
      });
      return texts(result.errors).length > 0 ? undefined : result.data;
    } catch (error) {
      warnings.push("normalizeUplink: " + error);
      return undefined;
    }
  }

  function decode(text) {
    var input = parse(text), result;
    if (typeof decodeUplink === "function") {
      result = returned(decodeUplink({
        bytes: input.bytes,
        fPort: input.fPort,
        recvTime: new Date(input.recvTime),
        variables: input.variables
      }));
    } else if (typeof Decoder === "function") {
      result = { data: Decoder(input.bytes, input.fPort) };
    } else if (typeof Decode === "function") {
      result = { data: Decode(input.fPort, input.bytes, input.variables) };
    } else {
      return null;
    }
    var errors = texts(result.errors), warnings = texts(result.warnings), normalized;
    if (errors.length === 0 && result.data !== undefined) {
      // A copy: what was decoded stays as it is.
      normalized = normalize(parse(stringify(result.data)), warnings);
    }
    return stringify({
      data: result.data,
      normalized: normalized,
      errors: errors,
      warnings: warnings
    });
  }

  function encode(text) {
    var input = parse(text), port = input.fPort === null ? undefined : input.fPort, result;
    if (typeof encodeDownlink === "function") {
      result = returned(encodeDownlink({ data: input.data, fPort: port, variables: input.variables }));
    } else if (typeof Encoder === "function") {
      result = { bytes: Encoder(input.data, port) };
    } else if (typeof Encode === "function") {
      result = { bytes: Encode(port, input.data, input.variables) };
    } else {
      return null;
    }
    return stringify({
      bytes: Array.prototype.map.call(result.bytes || [], function (byte) {
        return Math.round(byte) & 255;
      }),
      fPort: result.fPort,
      errors: texts(result.errors),
      warnings: texts(result.warnings)
    });
  }

  return { decode: decode, encode: encode };
})()
