-- What both dissectors need: readers of layouts, and the way to Wireshark's own USB dissectors.

-- Fields -------------------------------------------------------------------------------------------------------------

local SIZES = {B = 1, H = 2, I = 4, i = 4, Q = 8}
local MAKERS = {i = ProtoField.int32, Q = ProtoField.uint64}

local function size_of(code)
  return SIZES[code] or tonumber(code:match("%d+"))
end

-- A field for each name in the layouts, and for each whose bytes are a list of what elsewhere is one; `special` has
-- those with a form of their own.
local function layout_fields(prefix, layouts, special)
  local fields = {}
  for name, field in pairs(special) do fields[name] = field end
  for _, layout in pairs(layouts) do
    for _, field in ipairs(layout) do
      local name, code = field[1], field[2]
      if SIZES[code] and not fields[name] then
        fields[name] = (MAKERS[code] or ProtoField.uint32)(prefix .. "." .. name, name)
      elseif not SIZES[code] and not fields[name .. "_bytes"] and not special[name] then
        fields[name .. "_bytes"] = ProtoField.bytes(prefix .. "." .. name .. "_bytes", name)
      end
    end
  end
  return fields
end

local function list_of(fields)
  local list = {}
  for _, field in pairs(fields) do list[#list + 1] = field end
  return list
end

-- Reads a body from its front. What is not there is an error whose text is shown as malformed.
local Reader = {}
Reader.__index = Reader

local function reader(tvb, tree, fields, little)
  return setmetatable({tvb = tvb, at = 0, tree = tree, fields = fields, little = little}, Reader)
end

function Reader:left()
  return self.tvb:len() - self.at
end

function Reader:take(size, what)
  if self:left() < size then
    error({text = string.format("%s has %d bytes, there are %d", what, size, self:left())}, 0)
  end
  self.at = self.at + size
  return size > 0 and self.tvb:range(self.at - size, size) or nil
end

-- One field of a struct code, shown; its value: a number, or the TvbRange of bytes.
function Reader:field(name, code, tree)
  local range = self:take(size_of(code), name)
  tree = tree or self.tree
  local field = not SIZES[code] and self.fields[name .. "_bytes"] or self.fields[name]
  if self.little then tree:add_le(field, range) else tree:add(field, range) end
  if code == "i" then return self.little and range:le_int() or range:int() end
  if code == "Q" then return tostring(self.little and range:le_uint64() or range:uint64()) end
  if not SIZES[code] then return range end
  return self.little and range:le_uint() or range:uint()
end

-- A layout, of which `size` bytes are there, or all; its values by name.
function Reader:layout(layout, size, tree)
  local values, stop = {}, size and self.at + size
  for _, field in ipairs(layout) do
    if not stop or self.at < stop then values[field[1]] = self:field(field[1], field[2], tree) end
  end
  return values
end

-- The bytes that are left, or nil.
function Reader:rest()
  return self:take(self:left(), "rest")
end

-- USB ----------------------------------------------------------------------------------------------------------------

local usb_dissector = DissectorTable.get("wtap_encap"):get_dissector((wtap or wtap_encaps).USB_LINUX_MMAPPED)
local KINDS = {ISOCHRONOUS = 0, INTERRUPT = 1, CONTROL = 2, BULK = 3}
local IN_PROGRESS, DIR_IN = -115, 0x200

-- Give a transfer to Wireshark's USB dissectors, in the form in which Linux's usbmon captures it (Linux
-- Documentation/usb/usbmon.rst, struct usbmon_packet): they decode descriptors and classes, and know which answer
-- belongs to which question.
--
-- `one` has id (a UInt64), is_submit, kind, endpoint, bus, device, status (an errno), length; and perhaps data
-- (ByteArray), setup (8 bytes), interval, start_frame, flags, packets ({status, length} each).
local function show_usb(one, pinfo, tree)
  local is_in = one.endpoint >= 0x80
  local data = one.data or ByteArray.new()
  local has_data = data:len() > 0 and (is_in ~= one.is_submit)
  local packets = one.packets or {}
  local setup = one.setup or Struct.pack("=i4i4", 0, #packets)
  local microseconds = math.floor(pinfo.abs_ts * 1e6 + 0.5)
  local seconds = math.floor(microseconds / 1e6)
  local header = Struct.pack("=EBBBBI2BBei4i4I4I4", one.id, one.is_submit and 0x53 or 0x43, KINDS[one.kind],
    one.endpoint, one.device, one.bus, (one.is_submit and one.setup) and 0 or 0x2d,
    has_data and 0 or (is_in and 0x3c or 0x3e), Int64(seconds), microseconds % 1000000,
    one.is_submit and IN_PROGRESS or one.status, one.length, (has_data and data:len() or 0) + 16 * #packets)
  header = header .. setup .. Struct.pack("=i4i4I4I4", one.interval or 0, one.start_frame or 0,
    (one.flags or 0) + (is_in and DIR_IN or 0), #packets)
  local offset = 0
  for _, packet in ipairs(packets) do
    header = header .. Struct.pack("=i4I4I4I4", packet[1], offset, packet[2], 0)
    offset = offset + packet[2]
  end
  local bytes = ByteArray.new(header, true)
  if has_data then bytes:append(data) end
  local source, target, tvb = pinfo.src, pinfo.dst, bytes:tvb("USB")
  -- What they stumble over is in the payload: a descriptor or an answer of SCSI that was asked for in part.
  local done, problem = pcall(usb_dissector.call, usb_dissector, tvb, pinfo, tree)
  pinfo.src, pinfo.dst = source, target  -- USB's are written into them
  if not done then tree:add(tvb:range(), "Wireshark read no further: " .. tostring(problem)):set_generated() end
end

-- Which end of a connection sent a packet, and a name for the connection that is its own in the capture.
local tcp_stream, udp_stream = Field.new("tcp.stream"), Field.new("udp.stream")

local function connection_of(pinfo)
  local tcp, udp = tcp_stream(), udp_stream()
  local source, target = tostring(pinfo.src) .. " " .. pinfo.src_port, tostring(pinfo.dst) .. " " .. pinfo.dst_port
  if tcp then return "tcp " .. tostring(tcp), source end
  if udp then return "udp " .. tostring(udp), source end
  return source < target and source .. target or target .. source, source
end

-- Run `body`; what it finds malformed is shown as that.
local function guarded(tree, expert, body)
  local done, problem = pcall(body)
  if not done then
    local text = type(problem) == "table" and problem.text or tostring(problem)
    tree:add_proto_expert_info(expert, text)
  end
end
