-- What Jupyter shows and pandoc leaves aside: bare LaTeX environments, HTML within Markdown, numbers
-- to the right in tables. What cannot be set is left as a note or as its source.

-- Of these commands pandoc drops the content without a word.
local unsupported = {"\\tag%f[%A]", "\\color%f[%A]", "\\textcolor%f[%A]", "\\label%f[%A]", "\\&"}

-- notebook_pdf.py warns of every note.
local function note(text)
  return pandoc.RawInline("typst", '#note("' .. text:gsub('[\\"]', "\\%0") .. '")')
end

local function Math(math)
  local can_be_set = pandoc.write(pandoc.Pandoc({pandoc.Para({math})}), "typst"):sub(1, 1) == "$"
  for _, command in ipairs(unsupported) do
    can_be_set = can_be_set and not math.text:gsub("\\\\", "  "):find(command)
  end
  if can_be_set then return math end
  return {pandoc.Code(math.text), pandoc.Space(), note("formula not set")}
end

-- Pandoc would fetch a frame's page and drop the rest; as images they get a note.
local embedded = pandoc.List({"iframe", "video", "audio", "canvas", "object", "embed"})

local function as_image(text, tag)
  return text:gsub("<" .. tag .. "(%f[%A][^>]*)", function(attributes)
    local source = attributes:find("src=") and "" or ' src="' .. tag .. '"'
    return "<img" .. source .. attributes
  end)
end

local function from_html(text)
  for _, tag in ipairs(embedded) do text = as_image(text, tag) end
  -- Of an <svg> within Markdown, single tags come here.
  if not text:find("</svg>") then text = as_image(text, "svg") end
  return pandoc.read(text, "html-native_divs-native_spans").blocks
end

-- Of single tags within a line, those that set something by themselves.
local function RawInline(raw)
  if raw.format ~= "html" then return Math(pandoc.Math("DisplayMath", raw.text)) end
  local tag = raw.text:match("^<(%a+)")
  local kept = tag == "br" or tag == "img" or tag == "svg" or embedded:includes(tag)
  return kept and pandoc.utils.blocks_to_inlines(from_html(raw.text)) or {}
end

local function RawBlock(raw)
  if raw.format == "html" then return from_html(raw.text) end
  return pandoc.Para(Math(pandoc.Math("DisplayMath", raw.text)))
end

-- Typst leaves out what an SVG holds as HTML, such as Mermaid's labels.
local function html_in_svg(svg)
  local labels = {}
  for html in svg:gmatch("<foreign[Oo]bject.->(.-)</foreign[Oo]bject>") do
    table.insert(labels, html:gsub("<.->", " "):gsub("%s+", " "):match("^ ?(.-) ?$"))
  end
  return table.concat(labels, ", ")
end

local function Image(image)
  local remote = image.src:match("^%a[%w+.-]*://") or image.src:match("^//")
  local fetch = remote and error or pandoc.mediabag.fetch
  local found, kind, content = pcall(fetch, image.src)
  if not found or not (kind:match("^image/") or kind == "application/pdf") then
    return note("not available: " .. pandoc.text.sub(image.src, 1, 200))
  end
  -- A browser obeys the style, pandoc only the attribute.
  image.attributes.width = image.attributes.width
    or (image.attributes.style or ""):match("width:%s*([%d.]+%a+)")
  local labels = html_in_svg(content)
  if labels ~= "" then return {image, note("HTML in this image not set: " .. labels)} end
  return image
end

-- Headings have no anchors here, since two cells may share one.
local function Link(link)
  if link.target:sub(1, 1) == "#" then return link.content end
end

-- Columns of numbers are set to the right. Names may break after "_", and where the longest words of
-- all columns take more than a line, every word may break anywhere.
local function Table(tbl)
  local total = 0
  local rows = pandoc.List(tbl.head.rows):clone()
  for _, body in ipairs(tbl.bodies) do rows:extend(body.body) end
  for column, spec in ipairs(tbl.colspecs) do
    local numbers, longest = spec[1] == "AlignDefault", 0
    for i, row in ipairs(rows) do
      local text = row.cells[column] and pandoc.utils.stringify(row.cells[column].contents) or ""
      numbers = numbers and (i <= #tbl.head.rows or text:gsub("NaN", ""):gsub("%d[eE]", ""):match("^[-+−±%d%s.,%%]*$"))
      for word in text:gsub("_", " "):gmatch("%S+") do
        longest = math.max(longest, utf8.len(word))
      end
    end
    total = total + longest + 2
    if numbers then tbl.colspecs[column] = {"AlignRight", spec[2]} end
  end
  local breaks_after = total > 120 and utf8.charpattern or "_"
  return tbl:walk({Str = function(str) return pandoc.Str(str.text:gsub(breaks_after, "%0\u{200b}")) end})
end

local function centred(block)
  if #block.content == 1 and block.content[1].t == "Image" then
    return {pandoc.RawBlock("typst", "#align(center)["), block, pandoc.RawBlock("typst", "]")}
  end
end

-- What HTML brought is there only in the second pass.
return {
  {Math = Math, RawInline = RawInline, RawBlock = RawBlock},
  {Image = Image, Link = Link, Table = Table, Para = centred, Plain = centred},
}
