namespace LayerSkip

/// What is wrong with a JSON schema, or not served of one, told with its place.
[<RequireQualifiedAccess>]
module internal SchemaFault =
    /// Something that no schema may say.
    let bad<'T> (place: string) (what: string) : 'T =
        Check.throw (LayerSkipError.BadFile("JSON schema", $"{place} {what}"))

    /// A keyword that is not served, or not in this use.
    let refuse<'T> (keyword: string) (place: string) (hint: string) : 'T =
        Check.throw (LayerSkipError.Unsupported($"JSON schema: \"{keyword}\" at {place}", hint))
