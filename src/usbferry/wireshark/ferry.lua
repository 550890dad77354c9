-- ferry. Numbers in brackets are the sections of its specification, docs/protocols/ferry.md of usbferry.

local PART_CALL, PART_STATUS, IN_PROGRESS, NO_COMMON_VERSION, TRANSFER = 255, 6, 5, 10, 256
local STREAM_FLAG = 0x0200
local proto = Proto("ferry", "ferry, USB over a network")

local fields = layout_fields("ferry", LAYOUTS, {
  marker = ProtoField.uint32("ferry.marker", "Record marker"),
  identifier = ProtoField.uint32("ferry.identifier", "Identifier", base.HEX),
  number = ProtoField.uint8("ferry.call", "Call", base.DEC, CALLS),
  endpoint = ProtoField.uint8("ferry.endpoint", "Endpoint", base.HEX),
  flags = ProtoField.uint16("ferry.flags", "Flags", base.HEX),
  status = ProtoField.uint32("ferry.status", "Status", base.DEC, STATUSES),
  capabilities = ProtoField.uint32("ferry.capabilities", "Capabilities", base.HEX),
  speed = ProtoField.uint8("ferry.speed", "Speed", base.DEC, SPEEDS),
  reply_to = ProtoField.uint8("ferry.reply_to", "Reply to", base.DEC, CALLS),
  call_frame = ProtoField.framenum("ferry.call_frame", "Call in", base.NONE, frametype.REQUEST),
  reply_time = ProtoField.relative_time("ferry.time", "Time since the call"),
  piece = ProtoField.bytes("ferry.piece", "Piece"),
  body = ProtoField.bytes("ferry.body", "Body"),
  name = ProtoField.string("ferry.name", "Name"),
  text = ProtoField.string("ferry.text", "Text"),
  token = ProtoField.bytes("ferry.token", "Token"),
  outstanding = ProtoField.uint32("ferry.outstanding", "Outstanding"),
  due = ProtoField.uint32("ferry.due", "Due next"),
  change = ProtoField.uint32("ferry.change", "Change"),
  target = ProtoField.uint32("ferry.unlinked", "Unlinked call"),
  first = ProtoField.uint32("ferry.first", "First reply"),
  last = ProtoField.uint32("ferry.last", "Last reply"),
  setup = ProtoField.bytes("ferry.setup", "Setup packet"),
  stream = ProtoField.uint32("ferry.stream", "Stream"),
  streams = ProtoField.uint32("ferry.streams", "Streams"),
  packet = ProtoField.uint32("ferry.packet", "Packet of bytes"),
  done = ProtoField.uint32("ferry.done", "Bytes done"),
  data = ProtoField.bytes("ferry.data", "Data"),
  value = ProtoField.uint8("ferry.value", "Configuration"),
  interface = ProtoField.uint8("ferry.interface", "Interface"),
  setting = ProtoField.uint8("ferry.setting", "Alternate setting"),
  of_endpoint = ProtoField.uint8("ferry.of_endpoint", "Endpoint", base.HEX),
  record_bytes = ProtoField.uint32("ferry.record_bytes", "Bytes of the record"),
  class = ProtoField.uint24("ferry.class", "Class, subclass, protocol", base.HEX),
  descriptors = ProtoField.bytes("ferry.descriptors", "Configuration descriptors"),
  vendor_id = ProtoField.uint16("ferry.vendor_id", "Vendor", base.HEX),
  product_id = ProtoField.uint16("ferry.product_id", "Product", base.HEX),
})
local flag_fields, capability_fields = {}, {}
for bit, name in pairs(FLAGS) do
  flag_fields[bit] = ProtoField.bool("ferry.flags." .. name:lower(), name, 16, nil, bit)
end
for bit, name in pairs(CAPABILITIES) do
  capability_fields[bit] = ProtoField.bool("ferry.capabilities." .. name:lower(), name, 32, nil, bit)
end
proto.fields = list_of(fields)
for _, more in ipairs({flag_fields, capability_fields}) do
  for _, field in pairs(more) do proto.fields[#proto.fields + 1] = field end
end

local malformed = ProtoExpert.new("ferry.malformed", "Malformed", expert.group.MALFORMED, expert.severity.ERROR)
local wrong_kind = ProtoExpert.new("ferry.wrong_kind", "An identifier of the other kind", expert.group.PROTOCOL,
                                   expert.severity.ERROR)
local no_call = ProtoExpert.new("ferry.no_call", "The call is not in the capture", expert.group.SEQUENCE,
                                expert.severity.NOTE)
proto.experts = {malformed, wrong_kind, no_call}

-- State: what replies do not say (4.3), found in order when packets are seen first, and remembered for later -----------

local transports, sessions, notes, session_count

function proto.init()
  transports, sessions, notes, session_count = {}, {}, {}, 0
end

local function new_session()
  session_count = session_count + 1
  return {calls = {}, bus = session_count, device = 1}
end

local function is_version_call(tvb, at)
  return tvb:len() >= at + 16 and tvb:range(at, 1):uint() >= 0x80 and tvb:range(at + 4, 4):uint() == 0x01000000
end

local function transport_of(pinfo, is_controller)
  local name, source = connection_of(pinfo)
  local transport = transports[name]
  if not transport then
    transport = {calls = {}, pieces = {}, session = new_session()}
    transports[name] = transport
    transport.controller = source
    if not is_controller and pinfo.match_uint == pinfo.src_port then transport.target = source end
  end
  local from_controller = transport.controller == source
  if transport.target then from_controller = transport.target ~= source end
  return transport, from_controller
end

-- What is found out about a message the first time it is seen.
local function remembered(pinfo, key, find)
  key = pinfo.number .. " " .. key
  if not pinfo.visited then notes[key] = find() end
  return notes[key]
end

local function calls_of(transport, identifier)
  return identifier >= 0x80000000 and transport.calls or transport.session.calls
end

local function note_call(transport, identifier, message, pinfo)
  local number = message:range(0, 1):uint()
  local call = {identifier = identifier, number = number, name = CALLS[number], endpoint = message:range(1, 1):uint(),
                flags = message:range(2, 2):uint(), frame = pinfo.number, time = pinfo.abs_ts,
                session = transport.session}
  if call.name == "RESUME" and message:len() >= 4 + TOKEN_BYTES then call.token = message:raw(4, TOKEN_BYTES) end
  local earlier = calls_of(transport, identifier)[identifier]
  if earlier and earlier.number == number and not earlier.answered then  -- sent again
    call.frame, call.time = earlier.frame, earlier.time
  end
  calls_of(transport, identifier)[identifier] = call
  return call
end

-- A claim begins a session, RESUME moves it to another transport (8).
local function note_reply(transport, identifier, message)
  local call, status = calls_of(transport, identifier)[identifier], message:range(0, 4):uint()
  if not call or status == IN_PROGRESS then return call end
  call.answered = true
  if status == 0 and call.name == "CLAIM" and message:len() >= 4 + TOKEN_BYTES then
    transport.session = new_session()
    sessions[message:raw(4, TOKEN_BYTES)] = transport.session
  elseif status == 0 and call.token then
    sessions[call.token] = sessions[call.token] or new_session()
    transport.session = sessions[call.token]
  end
  return call
end

-- Bodies -------------------------------------------------------------------------------------------------------------

local function add_bits(tree, range, bits)
  for _, field in pairs(bits) do tree:add(field, range) end
end

local function times(count, what)
  for _ = 1, count do what() end
end

local function read_name(r, tree)
  local range = r:take(r:take(1, "name"):uint(), "name")
  if range then (tree or r.tree):add(fields.name, range) end
  return range and range:string() or ""
end

local function read_versions(r, count)
  times(count, function() r:field("version", "I") end)
end

-- 6.3; where the device is on its bus goes to `session`.
local function read_device(r, session)
  local start, tree, descriptors = r.at, r.tree:add(r.tvb:range(r.at), "Device"), {}
  local name = read_name(r, tree)
  local fixed = r:layout(LAYOUTS.Fixed, nil, tree)
  tree:add_le(fields.vendor_id, fixed.device:range(8, 2))
  tree:add_le(fields.product_id, fixed.device:range(10, 2))
  for _, what in ipairs({"path", "manufacturer", "product", "serial number", "holder"}) do
    local size = r:take(2, what):uint()
    local range = r:take(size, what)
    local text = range and range:string(ENC_UTF_8)
    if text then tree:add(fields.text, range, text):set_text(what .. ": " .. text) end
  end
  times(r:take(1, "settings"):uint(), function()
    r:field("interface", "B", tree)
    r:field("setting", "B", tree)
  end)
  times(r:take(1, "classes"):uint(), function() tree:add(fields.class, r:take(3, "class")) end)
  times(r:take(1, "configurations"):uint(), function()
    local range = r:take(r:take(2, "configuration"):uint(), "configuration")
    if range then
      tree:add(fields.descriptors, range)
      descriptors[#descriptors + 1] = range:bytes()
    end
  end)
  local text = string.format(" %s, %04x:%04x", name, fixed.device:range(8, 2):le_uint(),
                             fixed.device:range(10, 2):le_uint())
  tree:append_text(text)
  tree:set_len(r.at - start)
  if session then session.bus, session.device = fixed.bus, fixed.address % 128 end
  return text, descriptors
end

-- A program that was given the descriptors does not ask the device for them: show them as if it had, so that the USB
-- dissectors know the classes of its interfaces.
local function show_descriptors(session, descriptors, pinfo, tree)
  for index, data in ipairs(descriptors) do
    local one = {id = UInt64(index, 1), is_submit = true, kind = "CONTROL", endpoint = 0x80, bus = session.bus,
                 device = session.device, length = data:len(), status = 0,
                 setup = Struct.pack("<BBBBI2I2", 0x80, 6, index - 1, 2, 0, data:len())}
    show_usb(one, pinfo, tree)
    one.is_submit, one.setup, one.data = false, nil, data
    show_usb(one, pinfo, tree)
  end
end

local CALL_BODIES = {
  VERSION = function(r)
    add_bits(r.tree, r.tvb:range(r.at, 4), capability_fields)
    read_versions(r, r:layout(LAYOUTS.VersionCall).count)
  end,
  CLAIM = function(r) return " " .. read_name(r) end,
  UNLINK = function(r) return " #" .. r:field("target", "I") end,
  SET_CONFIGURATION = function(r) return " " .. r:field("value", "B") end,
  SET_INTERFACE = function(r) return " " .. r:field("interface", "B") .. " " .. r:field("setting", "B") end,
  CLEAR_HALT = function(r) return string.format(" %02x", r:field("of_endpoint", "B")) end,
  ALLOC_STREAMS = function(r)
    r:field("streams", "I")
    times(r:left(), function() r:field("of_endpoint", "B") end)
  end,
  FREE_STREAMS = function(r) times(r:left(), function() r:field("of_endpoint", "B") end) end,
  WATCH = function(r) r:field("change", "I") end,
  HEARTBEAT = function(r)
    while r:left() > 0 do
      r:field("first", "I")
      r:field("last", "I")
    end
  end,
  RESUME = function(r)
    r.tree:add(fields.token, r:take(TOKEN_BYTES, "token"))
    times(r:field("count", "I"), function() r:field("outstanding", "I") end)
  end,
}

local REPLY_BODIES = {
  VERSION = function(r)
    add_bits(r.tree, r.tvb:range(r.at + 4, 4), capability_fields)
    r:layout(LAYOUTS.VersionReply)
    r:rest()  -- what later versions append
  end,
  LIST = function(r)
    times(r:field("count", "I"), function()
      local size = r:field("record_bytes", "I")
      local record = reader(r:take(size, "device"):tvb(), r.tree, fields)
      read_device(record)
    end)
  end,
  CLAIM = function(r, call, pinfo)
    r.tree:add(fields.token, r:take(TOKEN_BYTES, "token"))
    local session = sessions[r.tvb:raw(4, TOKEN_BYTES)]
    local text, descriptors = read_device(r, session)
    r:rest()
    show_descriptors(session, descriptors, pinfo, r.tree)
    return text
  end,
  DESCRIBE = function(r)
    local text = read_device(r)
    r:rest()
    return text
  end,
  WATCH = function(r) r:field("change", "I") end,
  RESUME = function(r) return " #" .. r:field("due", "I") end,
}

-- Transfers (6.5) ---------------------------------------------------------------------------------------------------

local TRANSFERS = {CONTROL = true, BULK = true, ISOCHRONOUS = true, INTERRUPT = true}

local function add_data(r, is_there)
  local range = is_there and r:rest() or nil
  if range then r.tree:add(fields.data, range) end
  return range and range:bytes() or nil
end

local function usb_of(call, is_submit)
  return {id = UInt64(call.identifier, 0), is_submit = is_submit, kind = call.name, endpoint = call.endpoint,
          bus = call.session.bus, device = call.session.device}
end

local function read_submit(r, call)
  local one = usb_of(call, true)
  one.flags = call.flags % 0x100
  if call.name == "CONTROL" then
    local range = r:take(8, "setup packet")
    r.tree:add(fields.setup, range)
    one.setup, one.length = range:raw(), range:range(6, 2):le_uint()
  elseif call.name == "BULK" then
    one.length = r:field("length", "I")
  elseif call.name == "INTERRUPT" then
    local values = r:layout(LAYOUTS.Interrupt)
    one.length, one.interval = values.length, values.interval
  else
    local values = r:layout(LAYOUTS.Isochronous)
    one.interval, one.start_frame, one.length, one.packets = values.interval, values.start_frame, 0, {}
    times(values.count, function()
      local length = r:field("packet", "I")
      one.packets[#one.packets + 1] = {0, length}
      one.length = one.length + length
    end)
  end
  if call.name ~= "CONTROL" and call.name ~= "ISOCHRONOUS" and math.floor(call.flags / STREAM_FLAG) % 2 == 1 then
    r:field("stream", "I")
  end
  one.data = add_data(r, call.endpoint < 0x80)
  call.length = one.length
  return one, string.format(" %02x %d", call.endpoint, one.length)
end

local function read_results(r, one)
  local values = r:layout(LAYOUTS.IsochronousReply)
  one.start_frame, one.packets, one.length = values.start_frame, {}, 0
  times(values.count, function()
    local result = r:layout(LAYOUTS.IsoResult)
    one.packets[#one.packets + 1] = {ERRNOS[result.status] or -71, result.actual}
    one.length = one.length + result.actual
  end)
end

local function read_result(r, call, status)
  local one = usb_of(call, false)
  one.status, one.length = ERRNOS[status] or -71, 0
  local is_in = call.endpoint >= 0x80
  if call.name == "ISOCHRONOUS" then
    if r:left() > 0 then read_results(r, one) end
    one.data = add_data(r, is_in)
  elseif is_in then
    one.data = add_data(r, true)
    one.length = one.data and one.data:len() or 0
  elseif r:left() > 0 then
    one.length = r:field("done", "I")
  else
    one.length = call.length or 0
  end
  return one, " " .. one.length
end

-- Messages -----------------------------------------------------------------------------------------------------------

local function label(identifier)
  return identifier >= 0x80000000 and string.format("T%d", identifier - 0x80000000) or "#" .. identifier
end

-- `tvb` is the message from its second word on.
local function show_call(tvb, identifier, transport, pinfo, tree)
  local call = remembered(pinfo, "> " .. identifier, function() return note_call(transport, identifier, tvb, pinfo) end)
  local r = reader(tvb, tree, fields)
  r:field("number", "B")
  r:field("endpoint", "B")
  add_bits(tree:add(fields.flags, tvb:range(2, 2)), tvb:range(2, 2), flag_fields)
  r.at = 4
  local text, one = "", nil
  if call.name and (TRANSPORT_CALLS[call.number] or false) ~= (identifier >= 0x80000000) then  -- 4.2
    tree:add_proto_expert_info(wrong_kind)
  end
  if TRANSFERS[call.name] then
    one, text = read_submit(r, call)
  elseif CALL_BODIES[call.name] then
    text = CALL_BODIES[call.name](r, call) or ""
  elseif not call.name and r:left() > 0 then
    tree:add(fields.body, r:rest())
  end
  return string.format("> %s %s%s", label(identifier), call.name or call.number, text), r, one
end

local function show_reply(tvb, identifier, transport, pinfo, tree)
  local call = remembered(pinfo, "< " .. identifier, function() return note_reply(transport, identifier, tvb) end)
  local r = reader(tvb, tree, fields)
  local status = r:field("status", "I")
  local text, one = "", nil
  if not call then
    tree:add_proto_expert_info(no_call)
    if r:left() > 0 then tree:add(fields.body, r:rest()) end
    return string.format("< %s %s", label(identifier), STATUSES[status] or status), r
  end
  tree:add(fields.reply_to, call.number):set_generated()
  tree:add(fields.call_frame, call.frame):set_generated()
  tree:add(fields.reply_time, NSTime(math.floor(pinfo.abs_ts - call.time),
                                     math.floor((pinfo.abs_ts - call.time) % 1 * 1e9))):set_generated()
  if TRANSFERS[call.name] and (status == 0 or status >= TRANSFER) then
    one, text = read_result(r, call, status)
  elseif status == 0 and REPLY_BODIES[call.name] then
    text = REPLY_BODIES[call.name](r, call, pinfo) or ""
  elseif status == NO_COMMON_VERSION then
    read_versions(r, r:field("count", "I"))
  end
  return string.format("< %s %s %s%s", label(identifier), call.name or call.number, STATUSES[status] or status, text),
         r, one
end

-- A piece of a message (4.4); the whole from its second word on, once it is there.
local function take_part(tvb, identifier, transport, way, pinfo, tree)
  local r = reader(tvb, tree, fields)
  r.at = 8
  local part = r:layout(LAYOUTS.Part)
  tree:add(fields.piece, r:rest() or error({text = "a part without bytes"}, 0))
  local key = way .. identifier
  local whole = remembered(pinfo, "part " .. key .. " " .. part.offset, function()
    local pieces = transport.pieces[key] or {missing = part.total}
    transport.pieces[key] = pieces
    if not pieces[part.offset] then
      pieces[part.offset] = tvb:raw(16)
      pieces.missing = pieces.missing - (tvb:len() - 16)
    end
    if pieces.missing > 0 then return nil end
    transport.pieces[key] = nil
    local found, at = {}, 0
    while at < part.total do
      local piece = pieces[at]
      if not piece then return nil end
      found[#found + 1], at = piece, at + #piece
    end
    return table.concat(found)
  end)
  return whole and ByteArray.new(whole, true):tvb("Whole message"), part
end

-- One record, without its marker; what it says in a line.
local function show_record(tvb, transport, from_controller, pinfo, tree)
  local text = from_controller and ">" or "<"
  guarded(tree, malformed, function()
    if tvb:len() < 8 then error({text = string.format("a record of %d bytes", tvb:len())}, 0) end
    local identifier = tvb:range(0, 4):uint()
    local is_part = from_controller and tvb:range(4, 1):uint() == PART_CALL
      or not from_controller and tvb:range(4, 4):uint() == PART_STATUS
    tree:add(fields.identifier, tvb:range(0, 4))
    local message = tvb:range(4):tvb()
    if is_part then
      local first = from_controller and fields.number or fields.status
      tree:add(first, tvb:range(4, from_controller and 1 or 4))
      local whole, part = take_part(tvb, identifier, transport, text, pinfo, tree)
      text = string.format("%s %s PART %d of %d", text, label(identifier), part.offset, part.total)
      if not whole then return end
      message = whole
    end
    local show = from_controller and show_call or show_reply
    local line, r, one = show(message, identifier, transport, pinfo, tree)
    text = line
    if r:left() > 0 then error({text = string.format("%d bytes too many", r:left())}, 0) end
    if one then show_usb(one, pinfo, tree) end
  end)
  tree:append_text(", " .. text)
  return text
end

-- Records on transports (3, 4.1) -----------------------------------------------------------------------------------

local MARKER = 4

local function finish(pinfo, lines)
  pinfo.cols.protocol = "ferry"
  pinfo.cols.info = table.concat(lines, " | ")
end

local function show_stream(tvb, pinfo, tree)
  local transport, from_controller = transport_of(pinfo, is_version_call(tvb, MARKER))
  local lines = {}
  local function size_at(piece, _, at) return MARKER + piece:range(at, 4):uint() end
  local function show(piece)
    local item = tree:add(proto, piece:range())
    item:add(fields.marker, piece:range(0, MARKER))
    if piece:range(0, MARKER):uint() > RECORD_BYTES then
      item:add_proto_expert_info(malformed, "longer than a record may be")
    elseif piece:len() > MARKER then
      lines[#lines + 1] = show_record(piece:range(MARKER):tvb(), transport, from_controller, pinfo, item)
    end
    return piece:len()
  end
  local used = dissect_tcp_pdus(tvb, tree, MARKER, size_at, show)
  finish(pinfo, lines)
  return used
end

local function show_packet(tvb, pinfo, tree)
  local transport, from_controller = transport_of(pinfo, is_version_call(tvb, 0))
  local item = tree:add(proto, tvb:range())
  finish(pinfo, {show_record(tvb, transport, from_controller, pinfo, item)})
  return tvb:len()
end

function proto.dissector(tvb, pinfo, tree)
  return (udp_stream() and not tcp_stream() and show_packet or show_stream)(tvb, pinfo, tree)
end

-- Any port whose first bytes are VERSION will do.
local function heuristic(marker)
  return function(tvb, pinfo, tree)
    if not is_version_call(tvb, marker) then return false end
    local size = tvb:len() - marker
    if marker > 0 then size = tvb:range(0, marker):uint() end
    if size ~= 16 + 4 * tvb:range(marker + 12, 4):uint() then return false end
    pinfo.conversation = proto
    proto.dissector(tvb, pinfo, tree)
    return true
  end
end

DissectorTable.get("tcp.port"):add(PORT, proto)
DissectorTable.get("udp.port"):add(PORT, proto)
proto:register_heuristic("tcp", heuristic(MARKER))
proto:register_heuristic("udp", heuristic(0))
