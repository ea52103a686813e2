namespace LayerSkip

open System
open System.IO
open System.Text.Json

/// A part of a JSON file is not what it must be: where, and what is wrong with it.
exception internal JsonFault of place: string * fault: string

/// A value in a JSON file, with the way to it. What is absent, null or of another kind than asked for throws JsonFault,
/// which `JsonPart.guard` turns into an error that says where.
[<Sealed; AllowNullLiteral>]
type internal JsonPart(parent: JsonPart, step: string, index: int, element: JsonElement) =
    new(root: JsonElement) = JsonPart(null, "", 0, root)

    member private _.Parent = parent
    member private _.Step = if step = "" then $"[{index}]" else step

    /// As "model.merges[3]".
    member this.Place: string =
        let rec steps (part: JsonPart) = if isNull part.Parent then [] else part :: steps part.Parent

        steps this
        |> List.rev
        |> List.map _.Step
        |> List.fold
            (fun place step ->
                if place = "" || step.StartsWith '[' then
                    place + step
                else
                    $"{place}.{step}")
            ""

    /// Throws JsonFault of this place; `what` completes the sentence "model.vocab must be an object".
    member this.Fault<'T>(what: string) : 'T = raise (JsonFault(this.Place, what))

    /// The kind of the value, for who may be given several.
    member _.Kind = element.ValueKind

    /// The value as it is written in the file.
    member _.Raw: string = element.GetRawText()

    /// A text of whole characters.
    member this.Text: string =
        if element.ValueKind <> JsonValueKind.String then
            this.Fault "must be a text"

        try
            element.GetString()
        with :? InvalidOperationException ->
            this.Fault "holds half a character (a lone surrogate)"

    /// A whole number of 32 bits, written without fraction or exponent.
    member this.Int: int =
        match element.ValueKind = JsonValueKind.Number && fst (element.TryGetInt32()) with
        | true -> element.GetInt32()
        | false -> this.Fault "must be a whole number of 32 bits"

    /// A finite number of 64 bits.
    member this.Number: float =
        match element.ValueKind = JsonValueKind.Number && fst (element.TryGetDouble()) with
        | true when Double.IsFinite(element.GetDouble()) -> element.GetDouble()
        | _ -> this.Fault "must be a number of 64 bits"

    /// true or false.
    member this.Bool: bool =
        match element.ValueKind with
        | JsonValueKind.True -> true
        | JsonValueKind.False -> false
        | _ -> this.Fault "must be true or false"

    /// The values of a list.
    member this.Items: seq<JsonPart> =
        if element.ValueKind <> JsonValueKind.Array then
            this.Fault "must be a list"

        element.EnumerateArray() |> Seq.mapi (fun i item -> JsonPart(this, "", i, item))

    /// The names and values of an object.
    member this.Fields: seq<struct (string * JsonPart)> =
        if element.ValueKind <> JsonValueKind.Object then
            this.Fault "must be an object"

        element.EnumerateObject()
        |> Seq.map (fun entry ->
            let name =
                try
                    entry.Name
                with :? InvalidOperationException ->
                    this.Fault "has a name that holds half a character (a lone surrogate)"

            struct (name, JsonPart(this, name, 0, entry.Value)))

    /// A field, unless it is absent or null.
    member this.TryField(name: string) : JsonPart option =
        if element.ValueKind <> JsonValueKind.Object then
            this.Fault "must be an object"

        match element.TryGetProperty name with
        | true, value when value.ValueKind <> JsonValueKind.Null -> Some(JsonPart(this, name, 0, value))
        | _ -> None

    /// A field that must be there and not null.
    member this.Field(name: string) : JsonPart =
        match this.TryField name with
        | Some part -> part
        | None -> JsonPart(this, name, 0, element).Fault "is missing or null"

    /// A text, unless it is absent or null.
    member this.TryText(name: string) : string option = this.TryField name |> Option.map _.Text
    /// true or false; `fallback` where it is absent or null.
    member this.Flag(name: string, fallback: bool) : bool =
        this.TryField name |> Option.map _.Bool |> Option.defaultValue fallback

/// Between exceptions, which suit a format that is a tree of many kinds, and the Results of whoever loads a file. The
/// first fault ends the reading: what stands below it cannot be understood.
[<RequireQualifiedAccess>]
module internal JsonPart =
    /// Turns what a part throws, and what a file does, into errors of the file.
    let guard
        (path: string)
        (read: unit -> Result<'T, LayerSkipError list>)
        : Result<'T, LayerSkipError list> =
        let bad fault = Check.bad path fault

        try
            read ()
        with
        | :? LayerSkipException as e -> Error e.Errors
        | JsonFault("", fault) -> bad $"the file {fault}"
        | JsonFault(place, fault) -> bad $"\"{place}\" {fault}"
        // A JsonElement's own, of escapes that are no text.
        | :? InvalidOperationException -> bad "holds half a character (a lone surrogate); get the file again"
        | :? IOException
        | :? UnauthorizedAccessException as e -> bad e.Message

    /// Reads a file's root object.
    let load
        (path: string)
        (hint: string)
        (read: JsonPart -> Result<'T, LayerSkipError list>)
        : Result<'T, LayerSkipError list> =
        guard path (fun () -> Json.load path hint (JsonPart >> read))
