-- What Jupyter shows and pandoc leaves aside: bare LaTeX environments, HTML within Markdown, numbers
-- to the right in tables. What cannot be set is left as a note or as its source, with a warning.

-- Of these commands pandoc drops the content without a word.
local unsupported = {"\\tag%f[%A]", "\\color%f[%A]", "\\textcolor%f[%A]", "\\label%f[%A]", "\\&"}

-- The note's text stands in the PDF; with the detail, it goes to the terminal, too.
local function note(text, detail)
  io.stderr:write("NOTE ", text, detail and ": " .. detail:gsub("%s+", " ") or "", "\n")
  return pandoc.RawInline("typst", '#note("' .. text:gsub('[\\"]', "\\%0") .. '")')
end

function Math(math)
  local can_be_set = pandoc.write(pandoc.Pandoc({pandoc.Para({math})}), "typst"):sub(1, 1) == "$"
  for _, command in ipairs(unsupported) do
    can_be_set = can_be_set and not math.text:gsub("\\\\", "  "):find(command)
  end
  if can_be_set then return math end
  return {pandoc.Code(math.text), pandoc.Space(), note("formula not set", math.text)}
end

local function from_html(element)
  -- Pandoc would fetch a frame's page; as an image it is left out with a note.
  return pandoc.read(element.text:gsub("<iframe", "<img"), "html").blocks
end

-- Of single tags within a line, those that set something by themselves.
function RawInline(raw)
  if raw.format ~= "html" then return Math(pandoc.Math("DisplayMath", raw.text)) end
  local kept = raw.text:match("^<br") or raw.text:match("^<img")
  return kept and pandoc.utils.blocks_to_inlines(from_html(raw)) or {}
end

function RawBlock(raw)
  if raw.format == "html" then return from_html(raw) end
  return pandoc.Para(Math(pandoc.Math("DisplayMath", raw.text)))
end

function Image(image)
  local remote = image.src:match("^%a[%w+.-]*://") or image.src:match("^//")
  if remote or not pcall(pandoc.mediabag.fetch, image.src) then
    return note("not available: " .. pandoc.text.sub(image.src, 1, 200))
  end
  -- A browser obeys the style, pandoc only the attribute.
  image.attributes.width = image.attributes.width
    or (image.attributes.style or ""):match("width:%s*([%d.]+%a+)")
  return image
end

-- Headings have no anchors here, since two cells may share one.
function Link(link)
  if link.target:sub(1, 1) == "#" then return link.content end
end

-- Containers are left out: without content, they would still be taken for something to set.
local function content(element) return element.content end

-- Columns of numbers are set to the right. Names may break after "_", and where the longest words of
-- all columns take more than a line, every word may break anywhere.
function Table(tbl)
  local total = 0
  local rows = pandoc.List(tbl.head.rows):clone()
  for _, body in ipairs(tbl.bodies) do rows:extend(body.body) end
  for column, spec in ipairs(tbl.colspecs) do
    local numbers, longest = spec[1] == "AlignDefault", 0
    for i, row in ipairs(rows) do
      local text = row.cells[column] and pandoc.utils.stringify(row.cells[column].contents) or ""
      numbers = numbers and (i <= #tbl.head.rows or text == "" or text == "NaN" or text == "..."
        or text:match("^[-+−]?[%d.,]+[%d.,eE%%±+− -]*$"))
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

-- Images that HTML brought are there only after the first pass.
return {
  {Math = Math, RawInline = RawInline, RawBlock = RawBlock, Link = Link, Div = content, Span = content},
  {Image = Image, Table = Table},
  {Para = centred, Plain = centred},
}
