"""Reports: tables, numbers and figures as one offline HTML file. Takes frames and arrays only."""
