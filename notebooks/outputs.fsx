// What cells give, how notebooks store it, and when two of them are the same.
module Outputs

open System
open System.Globalization
open System.IO
open System.Text.Json.Nodes
open System.Text.RegularExpressions

[<RequireQualifiedAccess>]
type Output =
    | Printed of text: string
    | Drawn of svg: string

/// A code cell as a notebook holds it.
type StoredCell = { Code: string; Outputs: Output list }

let private text (lines: JsonNode) =
    match lines with
    | :? JsonArray as lines -> String.Join("", [ for line in lines -> string line ])
    | line -> string line

/// The code cells of a notebook.
let read (notebook: string) : StoredCell list = [
    for cell in JsonNode.Parse(File.ReadAllText notebook).["cells"].AsArray() do
        if string cell["cell_type"] = "code" then
            {
                Code = text cell["source"]
                Outputs = [
                    for output in cell["outputs"].AsArray() do
                        match string output["output_type"] with
                        | "stream" -> Output.Printed(text output["text"])
                        | _ -> Output.Drawn(text output["data"].["image/svg+xml"])
                ]
            }
]

let private numbers = Regex(@"#[0-9A-Fa-f]{6}\b|-?\d+(?:\.\d+)?")

/// Numbers and what stands between them are compared apart; `near` says which numbers are the same.
let private sameBut (near: string -> string -> bool) (a: string) (b: string) =
    let parted (text: string) = numbers.Split text, [| for found in numbers.Matches text -> found.Value |]
    let between, of' = parted a
    let between', of'' = parted b
    between = between' && of'.Length = of''.Length && Array.forall2 near of' of''

let private number (text: string) = Double.Parse(text, CultureInfo.InvariantCulture)

/// Whole numbers must be equal; where digits follow the point, processors may differ in the last of them.
let private nearText (a: string) (b: string) =
    let digits (text: string) =
        if text.Contains '.' then
            text.Length - text.IndexOf '.' - 1
        else
            0

    a = b
    || not (a.StartsWith '#' || b.StartsWith '#')
       && digits a = digits b
       && digits a > 0
       && abs (number a - number b) < 1.5 * 10.0 ** -float(digits a)

/// Places of pictures are the same within a pixel, colours within what no eye tells.
let private nearTag (a: string) (b: string) =
    let parts (colour: string) = [ for i in [ 1; 3; 5 ] -> Convert.ToInt32(colour.Substring(i, 2), 16) ]

    match a.StartsWith '#', b.StartsWith '#' with
    | true, true -> List.forall2 (fun (x: int) y -> abs (x - y) <= 4) (parts a) (parts b)
    | false, false -> abs (number a - number b) <= 1.0
    | _ -> false

let private tags = Regex "(<[^>]*>)"

/// Whether two outputs tell the same.
let same (a: Output) (b: Output) : bool =
    match a, b with
    | Output.Printed a, Output.Printed b -> sameBut nearText a b
    | Output.Drawn a, Output.Drawn b ->
        let a, b = tags.Split a, tags.Split b
        let nearPart (x: string) (y: string) = sameBut (if x.StartsWith '<' then nearTag else nearText) x y
        a.Length = b.Length && Array.forall2 nearPart a b
    | Output.Printed _, Output.Drawn _
    | Output.Drawn _, Output.Printed _ -> false

let sameAll (a: Output list) (b: Output list) : bool = a.Length = b.Length && List.forall2 same a b

/// For messages.
let shown (outputs: Output list) : string =
    outputs
    |> List.map (function
        | Output.Printed text -> text
        | Output.Drawn svg -> $"[a picture of {svg.Length} characters]\n")
    |> String.concat ""
