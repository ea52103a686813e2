namespace LayerSkip.Server

open System
open System.Text.Json

/// Reads the object that a request's body is, strictly: a field of another kind, or outside its range, is a fault with its name. null is
/// as absent as no field. What is wrong is gathered, and everything read; the values are good where there is no fault.
[<Sealed>]
type internal RequestReader private (root: JsonElement, place: string, faults: ResizeArray<Fault>) =
    // What a message shows of a value that somebody sent.
    let shown (value: JsonElement) =
        match value.ValueKind with
        | JsonValueKind.Number ->
            let text = value.GetRawText()
            if text.Length > 24 then text[..23] + "..." else text
        | JsonValueKind.String -> Fault.quoted (value.GetString())
        | JsonValueKind.Object -> "an object"
        | JsonValueKind.Array when value.GetArrayLength() = 0 -> "an empty list"
        | JsonValueKind.Array -> "a list of something else"
        | JsonValueKind.True -> "true"
        | JsonValueKind.False -> "false"
        | _ -> "null"

    let named (name: string) = if place = "" then name else $"{place}.{name}"

    new(root) = RequestReader(root, "", ResizeArray())

    member _.Faults: Fault list = List.ofSeq faults

    /// Adds a fault of a field, whose full name the text gets in front: `"stop" must be ...`.
    member _.Fault(name: string, text: string) : unit =
        let name = named name
        faults.Add { Field = name; Text = $"\"{name}\" {text}" }

    /// Whether a field has no fault, nor anything inside it.
    member _.IsSound(name: string) : bool =
        faults
        |> Seq.forall (fun fault ->
            not (
                fault.Field = name
                || fault.Field.StartsWith $"{name}."
                || fault.Field.StartsWith $"{name}["
            ))

    /// Adds faults of the whole.
    member _.Add(more: Fault list) : unit = faults.AddRange more

    member _.TryField(name: string) : JsonElement option =
        match root.TryGetProperty name with
        | true, value when value.ValueKind <> JsonValueKind.Null -> Some value
        | _ -> None

    /// Every field that is there, with its value.
    member _.Names: string list = [
        for field in root.EnumerateObject() do
            if field.Value.ValueKind <> JsonValueKind.Null then
                field.Name
    ]

    /// What `read` makes of a field; where it makes nothing, a fault that says what the field must be.
    member this.Read(name: string, must: string, read: JsonElement -> 'T option) : 'T option =
        match this.TryField name with
        | None -> None
        | Some value ->
            let result = read value

            if result.IsNone then
                this.Fault(name, $"must be {must}, but is {shown value}")

            result

    /// What `read` makes of a field that must be there, and be what `must` says.
    member this.Required(name: string, must: string, read: string -> 'T option) : 'T option =
        if this.TryField(name).IsNone then
            this.Fault(name, $"is missing; it must be {must}")

        read name

    /// true or false; `fallback` where nothing is said.
    member this.Flag(name: string, fallback: bool) : bool =
        this.Read(
            name,
            "true or false",
            fun value ->
                match value.ValueKind with
                | JsonValueKind.True -> Some true
                | JsonValueKind.False -> Some false
                | _ -> None
        )
        |> Option.defaultValue fallback

    /// The same; false where nothing is said.
    member this.Flag(name: string) : bool = this.Flag(name, false)

    static member private TryWhole(value: JsonElement) : int64 option =
        if value.ValueKind <> JsonValueKind.Number then
            None
        else
            match value.TryGetInt64() with
            | true, whole -> Some whole
            | _ ->
                // 1e3 and 5.0 are whole too.
                let number = value.GetDouble()

                if number = Math.Floor number && abs number < 1e15 then
                    Some(int64 number)
                else
                    None

    /// A whole number in a range.
    member this.Long(name: string, least: int64, most: int64) : int64 option =
        let must =
            if least = Int64.MinValue then
                "a whole number of 64 bits"
            else
                $"a whole number from {least} to {most}"

        let read value =
            RequestReader.TryWhole value
            |> Option.filter (fun whole -> whole >= least && whole <= most)

        this.Read(name, must, read)

    /// A whole number of 32 bits in a range.
    member this.Whole(name: string, least: int, most: int) : int option =
        this.Long(name, int64 least, int64 most) |> Option.map int

    /// A finite number from `least` to `most`.
    member this.Real(name: string, least: float, most: float) : float option =
        let must =
            match least, most with
            | Double.NegativeInfinity, Double.PositiveInfinity -> "a finite number"
            | least, Double.PositiveInfinity -> $"a number, {least} or more"
            | least, most -> $"a number from {least} to {most}"

        let read (value: JsonElement) =
            if value.ValueKind <> JsonValueKind.Number then
                None
            else
                let number = value.GetDouble()

                if Double.IsFinite number && number >= least && number <= most then
                    Some number
                else
                    None

        this.Read(name, must, read)

    /// A text, of any length.
    member this.Text(name: string) : string option =
        this.Read(
            name,
            "a text",
            fun value ->
                if value.ValueKind = JsonValueKind.String then
                    Some(value.GetString())
                else
                    None
        )

    /// One of some words, as the value that it stands for.
    member this.Word(name: string, known: (string * 'T) list) : 'T option =
        let words = known |> List.map (fun (word, _) -> $"\"{word}\"") |> String.concat ", "

        this.Read(
            name,
            $"one of {words}",
            fun value ->
                if value.ValueKind = JsonValueKind.String then
                    let given = value.GetString()
                    known |> List.tryPick (fun (word, meaning) -> if word = given then Some meaning else None)
                else
                    None
        )

    /// A list of ids.
    static member TryIds(value: JsonElement) : int[] option =
        if value.ValueKind <> JsonValueKind.Array then
            None
        else
            let ids = Array.zeroCreate (value.GetArrayLength())
            let mutable count = 0

            for item in value.EnumerateArray() do
                if item.ValueKind = JsonValueKind.Number && item.TryGetInt32(&ids[count]) then
                    count <- count + 1

            if count = ids.Length then Some ids else None

    /// A list of texts, or one alone.
    static member TryTexts(value: JsonElement) : string list option =
        match value.ValueKind with
        | JsonValueKind.String -> Some [ value.GetString() ]
        | JsonValueKind.Array when
            value.EnumerateArray() |> Seq.forall (fun item -> item.ValueKind = JsonValueKind.String)
            ->
            Some [ for item in value.EnumerateArray() -> item.GetString() ]
        | _ -> None

    /// An object inside, whose faults are reported with this one's under its name.
    member this.Object(name: string) : RequestReader option =
        this.Read(
            name,
            "an object",
            fun value ->
                if value.ValueKind = JsonValueKind.Object then
                    Some(RequestReader(value, named name, faults))
                else
                    None
        )

    /// The objects of a list, each named by its place: "messages[0]".
    member this.Objects(name: string) : RequestReader list option =
        this.Read(
            name,
            "a list of objects",
            fun value ->
                if
                    value.ValueKind = JsonValueKind.Array
                    && value.EnumerateArray()
                       |> Seq.forall (fun item -> item.ValueKind = JsonValueKind.Object)
                then
                    Some [
                        for place, item in Seq.indexed (value.EnumerateArray()) ->
                            RequestReader(item, $"{named name}[{place}]", faults)
                    ]
                else
                    None
        )

    /// The faults, with those of what was made of the fields; or what was made.
    member this.Result(made: Result<'T, Refusal>) : Result<'T, Refusal> =
        if faults.Count = 0 then
            made
        else
            let told = Refusal.ofFaults this.Faults

            match made with
            | Ok _ -> Error told
            | Error refusal -> Error(Refusal.join [ told; refusal ])
