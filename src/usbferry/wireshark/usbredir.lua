-- usbredir 0.7. Source: usbredir docs/usb-redirection-protocol.md, usbredirparser/usbredirproto.h.

local HELLO, EP_INFO, INTERFACE_INFO, FILTER = 0, 5, 4, 23
local HOST, GUEST = "usb-host", "usb-guest"
local IDS_64_BITS, NO_ENDPOINT = 5, 255
local ENDPOINT_TYPES = {[0] = "control", [1] = "isochronous", [2] = "bulk", [3] = "interrupt"}
local proto = Proto("usbredir", "USB redirection (usbredir)")

local type_names = {}
for number, row in pairs(TYPES) do type_names[number] = row.name:lower() end

local fields = layout_fields("usbredir", LAYOUTS, {
  kind = ProtoField.uint32("usbredir.type", "Type", base.DEC, type_names),
  endpoint = ProtoField.uint8("usbredir.endpoint", "Endpoint", base.HEX),
  status = ProtoField.uint8("usbredir.status", "Status", base.DEC, STATUSES),
  speed = ProtoField.uint8("usbredir.speed", "Speed", base.DEC, SPEEDS),
  version = ProtoField.string("usbredir.version", "Version"),
  capabilities = ProtoField.uint32("usbredir.capabilities", "Capabilities", base.HEX),
  vendor_id = ProtoField.uint16("usbredir.vendor_id", "Vendor", base.HEX),
  product_id = ProtoField.uint16("usbredir.product_id", "Product", base.HEX),
  rules = ProtoField.string("usbredir.rules", "Rules"),
  data = ProtoField.bytes("usbredir.data", "Data"),
  body = ProtoField.bytes("usbredir.body", "Body"),
  size = ProtoField.uint32("usbredir.size", "Bytes that follow"),
  id = ProtoField.uint64("usbredir.id", "Id"),
  short_id = ProtoField.uint32("usbredir.short_id", "Id"),
})
local capability_fields = {}
for bit, name in pairs(CAPABILITIES) do
  capability_fields[bit] = ProtoField.bool("usbredir.capabilities." .. name:lower(), name, 32, nil, bit)
end
proto.fields = list_of(fields)
for _, field in pairs(capability_fields) do proto.fields[#proto.fields + 1] = field end

local malformed = ProtoExpert.new("usbredir.malformed", "Malformed", expert.group.MALFORMED, expert.severity.ERROR)
proto.experts = {malformed}

-- State: what the hellos settled, and who has the device ----------------------------------------------------------------

local connections, count

function proto.init()
  connections, count = {}, 0
end

local function connection_at(pinfo)
  local name, source = connection_of(pinfo)
  if not connections[name] then
    count = count + 1
    connections[name] = {said = {}, bus = count, setups = {}}
  end
  return connections[name], source
end

local function has(connection, bit)
  local sides = 0
  for _, words in pairs(connection.said) do
    if math.floor(words / 2 ^ bit) % 2 == 0 then return false end
    sides = sides + 1
  end
  return sides == 2
end

local function size_of_layout(connection, name)
  local size = 0
  for _, field in ipairs(LAYOUTS[name]) do size = size + size_of(field[2]) end
  for _, step in ipairs(GROWN[name] or {}) do
    if not has(connection, step[1]) then size = size - step[2] end
  end
  return size
end

-- Every hello has the short header, since it is sent before anything is settled.
local function header_size(connection, kind)
  return (kind ~= HELLO and has(connection, IDS_64_BITS)) and 16 or 12
end

-- Bodies -------------------------------------------------------------------------------------------------------------

local function read_hello(r, connection, source)
  local range = r:take(64, "version")
  r.tree:add(fields.version, range, range:stringz())
  local words = 0
  if r:left() >= 4 then
    words = r.tvb:range(r.at, 4):le_uint()
    for _, field in pairs(capability_fields) do r.tree:add_le(field, r.tvb:range(r.at, 4)) end
  end
  while r:left() >= 4 do r:field("capabilities", "I") end
  connection.said[source] = words
  return " " .. range:stringz()
end

local function show_endpoints(r, at, connection)
  for slot = 0, 31 do
    local kind = r.tvb:range(at + slot, 1):uint()
    if kind ~= NO_ENDPOINT then
      r.tree:add(r.tvb:range(at + slot, 1), string.format("Endpoint %02x: %s, interval %d, interface %d",
        slot % 16 + (slot >= 16 and 0x80 or 0), ENDPOINT_TYPES[kind] or kind, r.tvb:range(at + 32 + slot, 1):uint(),
        r.tvb:range(at + 64 + slot, 1):uint()))
    end
  end
end

local function show_interfaces(r, at, values)
  for place = 0, math.min(values.count, 32) - 1 do
    local function byte(column) return r.tvb:range(at + 4 + 32 * column + place, 1):uint() end
    r.tree:add(r.tvb:range(at + 4 + place, 1), string.format("Interface %d: class %02x%02x%02x", byte(0), byte(1),
      byte(2), byte(3)))
  end
end

-- Transfers ----------------------------------------------------------------------------------------------------------

local USB_KINDS = {CONTROL_PACKET = "CONTROL", BULK_PACKET = "BULK", ISO_PACKET = "ISOCHRONOUS",
                   INTERRUPT_PACKET = "INTERRUPT", BUFFERED_BULK_PACKET = "BULK"}

local function usb_of(row, id, values, data, connection, from_host)
  local one = {id = id, is_submit = not from_host, kind = USB_KINDS[row.name], endpoint = values.endpoint,
               bus = connection.bus, device = 1, status = ERRNOS[values.status] or -71, data = data,
               length = values.length + (values.length_high or 0) * 65536}
  if one.kind == "CONTROL" then
    -- A completion says what was done; the setup packet is that of the request.
    if one.is_submit then
      one.setup = Struct.pack("<BBI2I2I2", values.request_type, values.request, values.value, values.index,
                              values.length)
    end
  elseif one.kind == "ISOCHRONOUS" then
    one.packets = {{one.status, values.length}}
  end
  return one
end

-- Packets ------------------------------------------------------------------------------------------------------------

local function note_sender(connection, row, source)
  if row.sender == HOST then connection.host = source end
  if row.sender == GUEST then connection.guest = source end
end

local function is_from_host(connection, source)
  if connection.host then return connection.host == source end
  return connection.guest ~= nil and connection.guest ~= source
end

local function show_body(row, id, r, connection, source, pinfo)
  local at, size = r.at, size_of_layout(connection, row.layout)
  if row.name == "HELLO" then return read_hello(r, connection, source) end
  local values = r:layout(LAYOUTS[row.layout], size)
  if row.name == "EP_INFO" then show_endpoints(r, at, connection) end
  if row.name == "INTERFACE_INFO" then show_interfaces(r, at, values) end
  local range = row.data and r:rest() or nil
  if row.name == "FILTER_FILTER" and range then
    r.tree:add(fields.rules, range)
  elseif range then
    r.tree:add(fields.data, range)
  end
  if r:left() > 0 then error({text = string.format("%d bytes too many", r:left())}, 0) end
  if not USB_KINDS[row.name] then return "" end
  local from_host = is_from_host(connection, source)
  show_usb(usb_of(row, id, values, range and range:bytes(), connection, from_host), pinfo, r.tree)
  local status = from_host and " " .. (STATUSES[values.status] or values.status):lower() or ""
  return string.format(" %02x %d%s", values.endpoint, values.length + (values.length_high or 0) * 65536, status)
end

local function show_packet(tvb, connection, source, pinfo, tree)
  local kind, text = tvb:range(0, 4):le_uint(), "?"
  guarded(tree, malformed, function()
    local size = header_size(connection, kind)
    local id = size == 16 and tvb:range(8, 8):le_uint64() or UInt64(tvb:range(8, 4):le_uint(), 0)
    tree:add_le(fields.kind, tvb:range(0, 4))
    tree:add_le(fields.size, tvb:range(4, 4))
    tree:add_le(size == 16 and fields.id or fields.short_id, tvb:range(8, size - 8))
    local row = TYPES[kind]
    text = row and row.name:lower() or tostring(kind)
    if not row then
      if tvb:len() > size then tree:add(fields.body, tvb:range(size)) end
      error({text = "a packet of type " .. kind}, 0)
    end
    note_sender(connection, row, source)
    local r = reader(tvb, tree, fields, true)
    r.at = size
    local number = (kind == HELLO) and "" or " #" .. tostring(id)
    text = text .. number .. show_body(row, id, r, connection, source, pinfo)
  end)
  tree:append_text(", " .. text)
  return text
end

function proto.dissector(tvb, pinfo, tree)
  local connection, source = connection_at(pinfo)
  local lines = {}
  local function size_at(piece, _, at)
    return header_size(connection, piece:range(at, 4):le_uint()) + piece:range(at + 4, 4):le_uint()
  end
  local function show(piece)
    lines[#lines + 1] = show_packet(piece, connection, source, pinfo, tree:add(proto, piece:range()))
    return piece:len()
  end
  local used = dissect_tcp_pdus(tvb, tree, 12, size_at, show)
  pinfo.cols.protocol = "usbredir"
  pinfo.cols.info = table.concat(lines, " | ")
  return used
end

-- Any port whose first bytes are a hello will do: none is registered, and each virtual machine has its own.
local function heuristic(tvb, pinfo, tree)
  if tvb:len() < 12 + 64 then return false end
  local length = tvb:range(4, 4):le_uint()
  local is_hello = tvb:range(0, 4):le_uint() == HELLO and tvb:range(8, 4):le_uint() == 0
  if not is_hello or length < 64 or length > 64 + 64 or length % 4 ~= 0 then return false end
  pinfo.conversation = proto
  proto.dissector(tvb, pinfo, tree)
  return true
end

DissectorTable.get("tcp.port"):add(PORT, proto)
proto:register_heuristic("tcp", heuristic)
