-- What Jupyter shows and pandoc's Markdown reader leaves aside: bare LaTeX environments and HTML.
-- And a warning, which --fail-if-warnings heeds, at math that pandoc drops without a word.

local unsupported = {"tag", "color", "textcolor", "label", "&"}

local function backslashed(text, name)
  return text:gsub("\\\\", "  "):find("\\" .. name .. (name == "&" and "" or "%f[%A]"))
end

function Math(math)
  for _, name in ipairs(unsupported) do
    if backslashed(math.text, name) then
      pandoc.log.warn("\\" .. name .. " is lost in the PDF, write the math without: " .. math.text)
    end
  end
  -- These two spaces come out as nothing and as a whole em.
  math.text = math.text:gsub("(\\+)([;!])", function(slashes, space)
    if #slashes % 2 == 0 then return nil end
    return slashes:sub(2) .. (space == ";" and "\\ " or "")
  end)
  return math
end

local function from_html(element)
  return pandoc.read(element.text, "html").blocks
end

-- Of single tags within a line, those that set something by themselves.
function RawInline(raw)
  if raw.format ~= "html" then return Math(pandoc.Math("DisplayMath", raw.text)) end
  if raw.text:match("^<br") then return pandoc.LineBreak() end
  if raw.text:match("^<img") then return pandoc.utils.blocks_to_inlines(from_html(raw)) end
  return {}
end

function RawBlock(raw)
  if raw.format == "html" then return from_html(raw) end
  return pandoc.Para({Math(pandoc.Math("DisplayMath", raw.text))})
end

-- A browser obeys the style, pandoc only the attribute.
function Image(image)
  image.attributes.width = image.attributes.width
    or (image.attributes.style or ""):match("width:%s*([%d.]+%a+)")
  return image
end

-- Headings have no anchors here, since two cells may share one.
function Link(link)
  if link.target:sub(1, 1) == "#" then return link.content end
end

local function centred(block)
  if #block.content == 1 and block.content[1].t == "Image" then
    return {pandoc.RawBlock("typst", "#align(center)["), block, pandoc.RawBlock("typst", "]")}
  end
end

-- Images that HTML brought are there only after the first pass.
return {
  {Math = Math, RawInline = RawInline, RawBlock = RawBlock, Link = Link},
  {Image = Image},
  {Para = centred, Plain = centred},
}
